r"""The tables of a comparison: means, intervals, and ranks that admit ties.

A *case* is a prompt with a seed; every method is run on every case, so methods are compared by differences within
cases. The gain is the best reward so far less that of the start. Intervals and ranks are over cases (`intervals.py`);
cases that share a prompt count as independent, which they are not quite.

Where results must meet requirements, gain and reward are over the cases that meet them (the gain: at the start, too),
and the share of those that do not is a column of its own. Methods are ranked by that share first.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch

from noiseward.loop.describe import SUSPECT
from noiseward.loop.plausible import Plausible
from noiseward.rewards.shortfall import is_met
from noiseward.sweep.intervals import Interval, interval, rank
from noiseward.sweep.looks import Measurements
from noiseward.sweep.packs import Pack

__all__ = ["Line", "Measured", "measure"]

Case = tuple[str, int]  # prompt, seed
Cases = Mapping[Case, tuple[Measurements, int]]  # what was measured of the case's run, and its row there
POINTS = 40  # of a curve


@dataclasses.dataclass(frozen=True)
class Line:
    """A method at a share of the budget.

    Attributes:
        rank: see `intervals.rank`.
        gain, reward: of the optimized reward.
        held: by held-out reward, what it is now and how much it changed since the start.
        probability, strict: P(z) and the strict probability of the best noise.
        suspect: share of cases whose strict probability says that the noise is out of distribution.
        unmet: share of cases whose best fails a requirement.
        implausible: share of cases whose image fails the image test; at the end of the budget only, None where no image
            was tested.
        diversity: mean distance of two seeds' features, over prompts; at the end of the budget only.
        memory: peak in bytes, in addition to what was there before; of the whole run.
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
    unmet: float
    implausible: float | None
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
        overran: methods whose last step went past the budget and found something better.
    """

    table: dict[str, list[Line]]
    refused: dict[str, str]
    curves: dict[str, tuple[list[float], list[Interval]]]
    start: Interval
    overran: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """Why a run may have a better best than its method has in the tables; None where none has."""
        if not self.overran:
            return None
        return (
            f"the last step of {', '.join(self.overran)} went past the budget and found something better: the ranking "
            "counts what was paid for by then; index.csv and the images have the best of whole runs"
        )

    def rows(self, share: float | str) -> list[Line]:
        """The methods at a share of the budget, best first."""
        return self.table[str(share)]


def measure(
    results: Sequence[tuple[Pack, Measurements]],
    refused: Mapping[str, str],
    *,
    kind: Literal["nfe", "seconds"],
    amount: float,
) -> Measured:
    """The tables of some packs' results; cases that not every method has are left out.

    Arguments:
        results: of packs that are done.
        refused: why methods do not apply.
        kind: of the budget.
        amount: of the budget.
    """
    by: dict[str, dict[Case, tuple[Measurements, int]]] = {}
    for pack, found in results:
        for row, (_, prompt, seed) in enumerate(pack.rows()):
            by.setdefault(str(pack.spec.method), {})[prompt, seed] = (found, row)
    cases = sorted(set.intersection(*(set(each) for each in by.values()))) if by else []
    by = {method: {case: each[case] for case in cases} for method, each in by.items()} if cases else {}
    first = list(next(iter(by.values())).values()) if by else []
    shares = list(first[0][0].at) if first else ["1.0"]
    costs = [amount * k / POINTS for k in range(1, POINTS + 1)]
    curves = {method: (costs, [_gain_at(cost, each, kind) for cost in costs]) for method, each in by.items()}
    start = interval([reward for found, row in first if is_met(reward := found.start["reward"][row])])
    overran = [method for method, each in by.items() if any(_overruns(*one) for one in each.values())]
    table = {share: _rank(by, share) for share in shares}
    return Measured(table, dict(refused), curves, start, tuple(overran))


def _overruns(found: Measurements, row: int) -> bool:
    """Whether a row found its best after the budget was spent."""
    return bool(found.reward) and found.reward[-1][row] > found.at["1.0"]["reward"][row]


def _gain_at(cost: float, cases: Cases, kind: str) -> Interval:
    """Mean gain at a cost."""
    ends = []
    for found, row in cases.values():
        spent = found.cost if kind == "nfe" else found.seconds
        start = found.start["reward"][row]
        paid = [best[row] for at, best in zip(spent, found.reward, strict=True) if at <= cost]
        ends.append((start, paid[-1] if paid else start))
    return _gain(ends)


def _gain(ends: Iterable[tuple[float, float]]) -> Interval:
    """Mean gain from the rewards of starts to those of bests, where both meet all requirements."""
    return interval([best - start for start, best in ends if is_met(start) and is_met(best)])


def _rank(by: Mapping[str, Cases], share: str) -> list[Line]:
    rewards = {
        method: [found.at[share]["reward"][row] for found, row in cases.values()] for method, cases in by.items()
    }
    ranks = rank(rewards, counts=is_met)
    lines = [_summarize(method, cases, share, ranks[method]) for method, cases in by.items()]
    return sorted(lines, key=lambda line: (line.rank, line.unmet, -line.reward.mean))


def _summarize(method: str, cases: Cases, share: str, rank: int) -> Line:
    at = [(found.at[share], found.start, row) for found, row in cases.values()]
    rewards = [now["reward"][row] for now, _, row in at]
    held = {
        name: (
            interval([now["held"][name][row] for now, _, row in at]),
            interval([now["held"][name][row] - start["held"][name][row] for now, start, row in at]),
        )
        for name in at[0][0]["held"]
    }
    strict = [now["strict"][row] for now, _, row in at]
    image = [p for now, _, row in at if "image" in now and (p := now["image"][row]) is not None]
    memory = [found.memory for found, _ in cases.values() if found.memory is not None]
    return Line(
        method=method,
        rank=rank,
        gain=_gain((start["reward"][row], now["reward"][row]) for now, start, row in at),
        reward=interval([reward for reward in rewards if is_met(reward)]),
        held=held,
        probability=interval([now["probability"][row] for now, _, row in at]),
        strict=interval(strict),
        suspect=sum(one < SUSPECT for one in strict) / len(strict),
        unmet=sum(not is_met(reward) for reward in rewards) / len(rewards),
        implausible=sum(p < Plausible.image for p in image) / len(image) if image else None,
        diversity=_measure_diversity(cases) if share == "1.0" else None,
        memory=max(memory) if memory else None,
        seconds=statistics.fmean([found.seconds[-1] for found, _ in cases.values()]),
    )


def _measure_diversity(cases: Cases) -> float | None:
    """Mean distance of features between seeds of a prompt, over prompts; None with one seed."""
    means = []
    for prompt in {prompt for prompt, _ in cases}:
        own = [found.features[row] for (of, _), (found, row) in cases.items() if of == prompt]
        if len(own) > 1:
            means.append(float(torch.pdist(torch.tensor(own)).mean()))
    return statistics.fmean(means) if means else None
