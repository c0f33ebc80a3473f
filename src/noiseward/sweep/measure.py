r"""What a comparison says: means, intervals, and ranks that admit ties.

A *case* is a prompt with a seed; every method is run on every case, so methods are compared by differences within
cases. The gain is the best reward so far less that of the start. Intervals are Student's, at 95 %, over cases.

A method's rank is one more than the number of methods that are better beyond doubt: those whose mean difference to it
has an interval above zero. Methods that cannot be told apart share a rank. Many pairs are looked at, so an occasional
false difference is to be expected; cases that share a prompt count as independent, which they are not quite.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from noiseward.sweep.comparison import CompareSpec, Pack

__all__ = ["Interval", "Measured", "Row", "curve", "interval", "measured", "ranks"]

# Student's 97.5 % quantiles by degrees of freedom; of those between, the larger is taken.
T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 15: 2.13, 23: 2.07,
     31: 2.04, 63: 2.00, 127: 1.98, 1000: 1.96}  # fmt: skip

Case = tuple[int, int]  # prompt, seed


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % interval; nan where one number says nothing of its spread."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g}" if math.isnan(self.half) else f"{self.mean:.3g} ± {self.half:.2g}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A method at a share of the budget.

    Attributes:
        rank: see the module.
        gain, reward: of the target.
        held: by held-out reward, what it is now and how much it changed since the start.
        probability, strict: P(z) and the strict probability of the best noise.
        suspect: share of cases whose strict probability is below 1e-3.
        diversity: mean distance of two seeds' features, over prompts; at the end of the budget only.
        memory: peak in bytes, beside what was there before; of the whole run.
        seconds: of a pack, for the whole budget.
    """

    method: str
    rank: int
    gain: Interval
    reward: Interval
    held: dict[str, tuple[Interval, Interval]]
    probability: Interval
    strict: Interval
    suspect: float
    diversity: float | None
    memory: int | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A comparison's tables.

    Attributes:
        table: by share of the budget, as text, the methods, best first.
        refused: why a method does not apply, by method.
        curves: by method, mean gain against cost: costs, means and half-widths.
        start: interval of the reward of the start.
    """

    table: dict[str, list[Row]]
    refused: dict[str, str]
    curves: dict[str, tuple[list[float], list[Interval]]]
    start: Interval

    def rows(self, share: float | str) -> list[Row]:
        """The methods at a share of the budget, best first."""
        return self.table[str(share)]


def measured(spec: CompareSpec, results: Sequence[tuple[Pack, Mapping[str, Any]]]) -> Measured:
    """The tables of some packs' results; of cases that not every method has, none are used."""
    refused = {pack.method: str(found["refused"]) for pack, found in results if "refused" in found}
    by: dict[str, dict[Case, tuple[Mapping[str, Any], int]]] = {}
    for pack, found in results:
        if pack.method not in refused:
            for row, seed in enumerate(pack.seeds):
                by.setdefault(pack.method, {})[pack.prompt, seed] = (found, row)
    cases = sorted(set.intersection(*(set(each) for each in by.values()))) if by else []
    by = {method: {case: each[case] for case in cases} for method, each in by.items()} if cases else {}
    shares = list(next(iter(next(iter(by.values())).values()))[0]["at"]) if by else ["1.0"]
    table = {share: _rows(by, share) for share in shares}
    curves = {method: curve(list(each.values()), spec) for method, each in by.items()}
    starts = [found["start"]["reward"][row] for found, row in next(iter(by.values())).values()] if by else [math.nan]
    return Measured(table, refused, curves, interval(starts))


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, half=2.482..., n=3)
    """
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return Interval(mean, math.nan, count)
    quantile = next(t for freedom, t in sorted(T.items(), reverse=True) if freedom <= count - 1)
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def ranks(values: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Ranks of methods from their values at the same cases (see the module).

    Example:
        >>> ranks({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.1, 4.0], "c": [2.1, 3.0, 4.1]})
        {'a': 3, 'b': 1, 'c': 1}
    """

    def better(one: Sequence[float], two: Sequence[float]) -> bool:
        difference = interval([a - b for a, b in zip(one, two, strict=True)])
        return difference.mean - difference.half > 0  # of one case nothing is beyond doubt

    return {
        method: 1 + sum(better(values[other], own) for other in values if other != method)
        for method, own in values.items()
    }


def curve(cases: Sequence[tuple[Mapping[str, Any], int]], spec: CompareSpec) -> tuple[list[float], list[Interval]]:
    """Mean gain against cost, at 40 costs up to the budget."""
    key = "cost" if spec.kind == "nfe" else "seconds"
    costs = [spec.amount * k / 40 for k in range(1, 41)]
    gains = []
    for cost in costs:
        within = []
        for found, row in cases:
            start = found["start"]["reward"][row]
            paid = [
                best[row] for at, best in zip(found["curve"][key], found["curve"]["reward"], strict=True) if at <= cost
            ]
            within.append((paid[-1] if paid else start) - start)
        gains.append(interval(within))
    return costs, gains


def _rows(by: Mapping[str, Mapping[Case, tuple[Mapping[str, Any], int]]], share: str) -> list[Row]:
    gains = {
        method: [found["at"][share]["reward"][row] - found["start"]["reward"][row] for found, row in cases.values()]
        for method, cases in by.items()
    }
    rank = ranks(gains)
    rows = []
    for method, cases in by.items():
        at = [(found["at"][share], found["start"], row) for found, row in cases.values()]
        held = {
            name: (
                interval([now["held"][name][row] for now, _, row in at]),
                interval([now["held"][name][row] - start["held"][name][row] for now, start, row in at]),
            )
            for name in at[0][0]["held"]
        }
        strict = [now["strict"][row] for now, _, row in at]
        memory = [found["memory"] for found, _ in cases.values() if found["memory"] is not None]
        rows.append(
            Row(
                method=method,
                rank=rank[method],
                gain=interval(gains[method]),
                reward=interval([now["reward"][row] for now, _, row in at]),
                held=held,
                probability=interval([now["probability"][row] for now, _, row in at]),
                strict=interval(strict),
                suspect=sum(one < 1e-3 for one in strict) / len(strict),
                diversity=_diversity(cases) if share == "1.0" else None,
                memory=max(memory) if memory else None,
                seconds=statistics.fmean([found["seconds"] for found, _ in cases.values()]),
            )
        )
    return sorted(rows, key=lambda row: (row.rank, -row.gain.mean))


def _diversity(cases: Mapping[Case, tuple[Mapping[str, Any], int]]) -> float | None:
    """Mean distance of features between seeds of a prompt, over prompts; None with one seed."""
    means = []
    for prompt in {prompt for prompt, _ in cases}:
        own = [found["features"][row] for (of, _), (found, row) in cases.items() if of == prompt]
        if len(own) > 1:
            means.append(float(torch.pdist(torch.tensor(own)).mean()))
    return statistics.fmean(means) if means else None
