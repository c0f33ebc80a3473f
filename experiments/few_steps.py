"""Few steps first: is the reward of plain ascent on 50 sampler steps reached sooner, and what does it cost?

Plain: DNO on 50 steps, 100 moves. Against it, at a sixteenth, an eighth and a quarter of its denoiser calls: the same
ascent on 5 or 10 steps first, carried over (`nested.py`), then on 50; with the rate raised so that Adam's moves are as
long, as `align` does, and without; and with the cheap gradient, which passes the sampler's linear part alone. What was
gained is compared picture by picture; the judge, who is climbed by nobody, says of both whether the noun is right.

    python -m experiments.few_steps [--small] [--part 0/2]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import judge
from experiments.cells import CELLS, cell, mine
from experiments.report import interval, model, say, write
from noiseward import Budget
from noiseward.align import prepare
from noiseward.solution import collect

CAPTIONS = ("a duck", "a rabbit", "a heart", "a cat")
MANY, MOVES = 50, 100
PLAIN = "50 steps"
WAYS: dict[str, dict[str, Any]] = {
    "10 steps first": {"coarse": 10},
    "5 steps first": {"coarse": 5},
    "5 steps first, rate not raised": {"coarse": 5, "raised": False},
    "5 steps first, linear gradient": {"coarse": 5, "estimator": "backprop:through=linear"},
}
SHARES = (1 / 16, 1 / 8, 1 / 4)  # of the plain run's calls
STYLES = {PLAIN: ("0.5", "-", ""), **dict(zip(WAYS, (("C1", "-", "o"), ("0", "-", "s"), ("0", ":", "v"),
                                                   ("C0", "--", "^")), strict=True))}  # fmt: skip


def made(
    captions: Sequence[str], seeds: int, budget: Budget, many: int, *, raised: bool = True, **how: Any
) -> dict[str, Any]:
    """One way's runs, all in one batch, whose rows do not know of each other: what was spent along the way with the
    best reward so far of each row, and the judge's word on the start and on the best."""
    problem = prepare(
        "stickers", list(captions), "brightness", budget=budget, batch=seeds, seed=200, watch=(),
        call={"num_inference_steps": many, "eta": 1.0}, **how,
    )  # fmt: skip
    if problem.first is not None and not raised:
        problem = dataclasses.replace(problem, first=dataclasses.replace(problem.first, optimizer=problem.optimizer))
    solution = collect(problem.iterate(), problem.objective)
    asked = list(problem.objective.prompt or ())
    nouns = [caption.removeprefix("a ") for caption in asked]
    looked = [solution.initial.sample, solution.sample]
    best, along = torch.full((len(asked),), -torch.inf), []
    for record in solution.history:
        best = best.maximum(torch.tensor(record["reward"]))
        nfe = record["nfe"]
        along.append((nfe["forward"] + 2 * nfe["backward"] + nfe["recomputed"], record["seconds"], best.tolist()))
    known = judge.installed()
    with torch.no_grad():
        scores = [judge.model("judge")(sample, asked).tolist() for sample in looked] if known else None
    return {
        "along": along,
        "noun": [judge.right_noun(sample, nouns) for sample in looked] if known else None,
        "judge": scores,
        "strict": list(solution.strict_probability),
        "probability": list(solution.probability),
    }


def gains(run: dict[str, Any], calls: float = float("inf")) -> list[float]:
    """What each row had gained when so many calls were spent."""
    start = run["along"][0][2]
    best = [best for spent, _, best in run["along"] if spent <= calls]
    return [b - a for a, b in zip(start, best[-1] if best else start, strict=True)]


def against(plain: dict[str, Any], run: dict[str, Any], calls: float = float("inf")) -> dict[str, Any]:
    """A run beside all that the plain one gained."""
    own, whole = gains(run, calls), gains(plain)

    def change(part: str, of: dict[str, Any]) -> list[float]:
        return [b - a for a, b in zip(*of[part], strict=True)]

    def lost(part: str) -> dict[str, float] | None:
        if run[part] is None or run is plain:
            return None
        return interval([b - a for a, b in zip(change(part, plain), change(part, run), strict=True)])

    return {
        "calls": max(spent for spent, *_ in run["along"] if spent <= calls),
        "seconds": max(seconds for spent, seconds, _ in run["along"] if spent <= calls),
        "gain": interval(own),
        "ahead": interval([b - a for a, b in zip(whole, own, strict=True)]),
        "reached": sum(b >= a for a, b in zip(whole, own, strict=True)) / len(own),
        "noun": interval(change("noun", run)) if run["noun"] else None,
        "noun against": lost("noun"),
        "judge against": lost("judge"),
        "strict": interval(run["strict"]),
    }


def verdict(results: dict[str, Any], spent: float) -> str:
    """How much sooner each way is where the plain one ended."""
    said = []
    for way, by in results.items():
        there = [one for one in by.values() if one["ahead"]["mean"] >= 0]
        if way == PLAIN:
            continue
        if not there:
            far = list(by.values())[-1]
            said.append(f"{way}: not reached in {far['calls'] / spent:.0%} of the calls ({say(far['ahead'], 3)})")
            continue
        one = there[0]
        judged = f"; the judge's score {say(one['judge against'], 4)} beside plain's" if one["judge against"] else ""
        said.append(
            f"{way}: reached {spent / one['calls']:.1f} times sooner in calls ({say(one['ahead'], 3)} ahead, by "
            f"{one['reached']:.0%} of pictures{judged})"
        )
    return "; ".join(said)


def draw(results: dict[str, Any], plain: dict[str, Any], spent: float) -> Figure:
    """What was gained against calls, and the judge's score against what was gained."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [calls for calls, *_ in plain["along"]]
    mean = [interval(gains(plain, calls))["mean"] for calls in x]
    left.plot(x, mean, color="0.5", label=f"{PLAIN}, plain")
    left.axhline(mean[-1], color="0.5", linewidth=0.8, linestyle=":")
    for way, by in results.items():
        if way == PLAIN:
            continue
        color, line, mark = STYLES[way]
        style: dict[str, Any] = {"color": color, "linestyle": line, "marker": mark, "capsize": 3, "label": way}
        mean, half = ([one["gain"][part] for one in by.values()] for part in ("mean", "half"))
        left.errorbar([one["calls"] for one in by.values()], mean, half, **style)
        if all(one["judge against"] for one in by.values()):
            low, wide = ([one["judge against"][part] for one in by.values()] for part in ("mean", "half"))
            right.errorbar([one["ahead"]["mean"] for one in by.values()], low, wide, **style)
    left.axvline(spent / 8, color="0.7", linewidth=0.8, linestyle="--")
    left.set(xscale="log", xlabel="denoiser calls per picture (dashed: an eighth)", ylabel="gain in brightness")
    right.axhline(0, color="0.5", linewidth=0.8)
    right.axvline(0, color="0.5", linewidth=0.8)
    right.set(xlabel="gain ahead of plain ascent's", ylabel="held-out judge's score, beside plain's (95 % interval)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one caption, one seed, 10 steps, 8 moves")
    parser.add_argument("--part", help="i/n: make the i-th of n shares of the runs, and write no results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    captions, seeds, many, moves = (CAPTIONS[:1], 1, 10, 8) if small else (CAPTIONS, 3, MANY, MOVES)
    shares = SHARES[-1:] if small else SHARES
    spent = 3 * many * moves
    work = [(PLAIN, None), *((way, share) for share in shares for way in list(WAYS)[1 if small else 0 :])]
    runs: dict[str, dict[float | None, dict[str, Any]]] = {}
    for number, (way, share) in enumerate(work):
        if not mine(number, arguments.part):
            continue
        budget = Budget(steps=moves) if share is None else Budget(nfe=round(share * spent))
        shape = {"captions": captions, "seeds": seeds, "many": many}
        key = {**shape, "how": WAYS.get(way, {}), "budget": dataclasses.asdict(budget), "model": model()}
        runs.setdefault(way, {})[share] = cell(
            "few_steps",
            key,
            lambda way=way, budget=budget, shape=shape: made(**shape, budget=budget, **WAYS.get(way, {})),
        )
        print(f"{number + 1}/{len(work)} {way} {share or ''}", flush=True)
    if arguments.part:
        return
    plain = runs.pop(PLAIN)[None]
    results: dict[str, Any] = {
        PLAIN: {**{f"{share:g}": against(plain, plain, share * spent) for share in shares},
                "1": against(plain, plain)},
        **{way: {f"{share:g}": against(plain, run) for share, run in by.items()} for way, by in runs.items()},
    }  # fmt: skip
    settings = {
        "captions": captions, "seeds": f"200 to {199 + seeds}", "reward": "brightness", "steps": many, "moves": moves,
        "shares": shares, "rate": 0.01, "small": small,
    }  # fmt: skip
    write("few_steps", settings=settings, results=results, verdict=verdict(results, spent),
          figure=draw(results, plain, spent), **({"out": CELLS / "small"} if small else {}))  # fmt: skip


if __name__ == "__main__":
    main()
