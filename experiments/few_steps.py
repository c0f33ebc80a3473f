"""Few steps first: is the reward of plain ascent on 50 sampler steps reached sooner, and what does it cost?

Plain: DNO on 50 sampler steps, 50 optimization steps. Against it, at small shares of its denoiser calls: the same
ascent on 5 or 10 steps first, carried over (`nested.py`), then on 50, as `align(..., coarse=5)` does; with the rate
raised so that Adam's steps on few steps are as long as on many; and with the cheap gradient, which passes the sampler's
linear part alone. What was gained is compared image by image; the judge, which no method optimizes, says whether the
noun is right. Plain ascent that stopped at a quarter is judged, too: a method that gains less also drifts less.

    python -m experiments.few_steps [--small] [--part 0/2]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import judge
from experiments.cells import CELLS, Cell, add_engine, compute, read_engine
from experiments.report import format_mean, interval, model, write
from noiseward import Budget, GradientAscent, coarse_to_fine
from noiseward.loop.collect import collect
from noiseward.options.run import Settings
from noiseward.problem import prepare

CAPTIONS = ("a duck", "a rabbit", "a heart", "a cat")
MANY, STEPS = 50, 50
RATE = 0.01  # the default
PLAIN = "50 steps"
WAYS: dict[str, dict[str, Any]] = {
    "10 steps first": {"method": "dno:coarse=10"},
    "5 steps first": {"method": "dno:coarse=5"},
    "5 steps first, rate raised": {"method": "dno:coarse=5", "raised": True},
    "5 steps first, linear gradient": {"method": "dno:coarse=5,estimator=backprop:through=linear"},
}
SHARES = (1 / 32, 1 / 16, 1 / 8)  # of the plain run's calls
EARLY = 1 / 4  # where the plain run is judged as well
STYLES = {PLAIN: ("0.5", "-", "d"), **dict(zip(WAYS, (("C1", "-", "o"), ("0", "-", "s"), ("0", ":", "v"),
                                                   ("C0", "--", "^")), strict=True))}  # fmt: skip


def run_way(
    captions: Sequence[str], seeds: int, budget: Budget, many: int, *, raised: bool = False, method: str = "dno"
) -> dict[str, Any]:
    """One way's runs, all in one batch, whose rows do not know of each other: what was spent along the way with the
    best reward so far of each row, and the judge's word on the start and on the best."""
    settings = Settings(steps=budget.steps, nfe=budget.nfe, batch=seeds, seed=200, num_inference_steps=many, eta=1.0)
    method += ",guard=none" if ":" in method else ":guard=none"
    problem = prepare("stickers", list(captions), "brightness", settings, method=method, watch=())
    steps = problem.iterate()
    if raised:
        first = problem.first
        assert first is not None
        steps = coarse_to_fine(
            first.objective, problem.objective, problem.noise, nested=first.nested, optimizer=problem.optimizer,
            first=first.part(budget), budget=budget, seeds=problem.seeds,
            before=GradientAscent(lr=first.nested.stretch * RATE),
        )  # fmt: skip
    solution = collect(steps, problem.objective)
    prompts = list(problem.objective.prompt or ())
    nouns = [caption.removeprefix("a ") for caption in prompts]
    samples = [solution.initial.sample, solution.sample]
    best, along = torch.full((len(prompts),), -torch.inf), []
    for record in solution.history:
        best = best.maximum(torch.tensor(record["reward"]))
        nfe = record["nfe"]
        along.append((nfe["forward"] + 2 * nfe["backward"] + nfe["recomputed"], record["seconds"], best.tolist()))
    known = judge.is_installed()
    with torch.no_grad():
        scores = [judge.model("judge")(sample, prompts).tolist() for sample in samples] if known else None
    return {
        "along": along,
        "noun": [judge.right_noun(sample, nouns) for sample in samples] if known else None,
        "judge": scores,
        "strict": list(solution.strict_probability),
        "probability": list(solution.probability),
    }


def gains(run: dict[str, Any], calls: float = float("inf")) -> list[float]:
    """What each row had gained when so many calls were spent."""
    start = run["along"][0][2]
    best = [best for spent, _, best in run["along"] if spent <= calls]
    return [b - a for a, b in zip(start, best[-1] if best else start, strict=True)]


def compare(plain: dict[str, Any], run: dict[str, Any], calls: float = float("inf")) -> dict[str, Any]:
    """A run compared with all that the plain one gained."""
    own, whole = gains(run, calls), gains(plain)

    def change(part: str, of: dict[str, Any]) -> list[float]:
        return [b - a for a, b in zip(*of[part], strict=True)]

    def difference(part: str) -> dict[str, float] | None:
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
        "noun against": difference("noun"),
        "judge against": difference("judge"),
        "strict": interval(run["strict"]),
    }


def verdict(results: dict[str, Any], spent: float) -> str:
    """How much sooner each way is where the plain one ended, and what that costs."""

    def describe_nouns(one: dict[str, Any]) -> str:
        return f", nouns right {one['noun']['mean'] * 100:+.0f} points" if one["noun"] else ""

    whole, early = results[PLAIN]["1"], results[PLAIN][f"{EARLY:g}"]
    sentences = [
        f"{PLAIN}: gain {format_mean(whole['gain'], 3)}{describe_nouns(whole)}; at a quarter "
        f"{format_mean(early['gain'], 3)}{describe_nouns(early)}"
    ]
    for way, by in results.items():
        if way == PLAIN:
            continue
        one = next((one for one in by.values() if one["ahead"]["mean"] >= 0), None)
        if one is None:
            last = list(by.values())[-1]
            sentences.append(
                f"{way}: not there at {last['calls'] / spent:.3f} of the calls, gain {format_mean(last['gain'], 3)}"
                f"{describe_nouns(last)}"
            )
            continue
        score = one["judge against"]
        seconds = whole["seconds"] / one["seconds"]
        sentences.append(
            f"{way}: there {spent / one['calls']:.1f} times sooner in calls, {seconds:.0f} in seconds, gain "
            f"{format_mean(one['gain'], 3)}, {format_mean(one['ahead'], 3)} ahead{describe_nouns(one)}"
            + (f", the judge's score of the caption {format_mean(score, 3)} against plain's" if score else "")
        )
    return "; ".join(sentences)


def draw(results: dict[str, Any], plain: dict[str, Any], spent: float) -> Figure:
    """What was gained against calls, and how plausible the noise is against what was gained."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = [calls for calls, *_ in plain["along"]]
    mean = [interval(gains(plain, calls))["mean"] for calls in x]
    left.plot(x, mean, color="0.5", label=f"{PLAIN}, plain")
    left.axhline(mean[-1], color="0.5", linewidth=0.8, linestyle=":")
    for way, by in results.items():
        looks = {name: one for name, one in by.items() if "calls" in one and name != "1"}
        color, line, mark = STYLES[way]
        style: dict[str, Any] = {"color": color, "linestyle": line, "marker": mark, "capsize": 3, "label": way}
        mean, half = ([one["gain"][part] for one in looks.values()] for part in ("mean", "half"))
        if way != PLAIN:
            left.errorbar([one["calls"] for one in looks.values()], mean, half, **style)
        ends = [one["strict"] for one in looks.values()]
        right.plot(mean, [one["mean"] for one in ends], color=color, linestyle=line, marker=mark, label=way)
    whole = results[PLAIN]["1"]
    right.plot([whole["gain"]["mean"]], [whole["strict"]["mean"]], color="0.5", marker="D")
    left.axvline(spent / 8, color="0.7", linewidth=0.8, linestyle="--")
    left.set(xscale="log", xlabel="denoiser calls per image (dashed: an eighth)", ylabel="gain in brightness")
    left.set_xticks([spent / 32, spent / 8, spent / 2], [f"{spent / part:.0f}" for part in (32, 8, 2)])
    left.minorticks_off()
    right.set(xlabel="gain in brightness", ylabel="strict probability of the noise, mean", ylim=(-0.05, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one caption, one seed, 10 sampler steps, 8 steps")
    add_engine(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    captions, seeds, many, steps = (CAPTIONS[:1], 1, 10, 8) if small else (CAPTIONS, 2, MANY, STEPS)
    shares = SHARES[-1:] if small else SHARES
    spent = 3 * many * steps
    ways = list(WAYS)[1 if small else 0 :]
    work = [(PLAIN, None), (PLAIN, EARLY), *((way, share) for share in shares for way in ways)]
    cells: dict[tuple[str, float | None], Cell] = {}
    for way, share in work:
        budget = Budget(steps=steps) if share is None else Budget(nfe=round(share * spent))
        how = {"captions": captions, "seeds": seeds, "many": many, **WAYS.get(way, {})}
        key = {"how": how, "budget": dataclasses.asdict(budget), "model": model()}
        cells[way, share] = Cell(key, partial(run_way, budget=budget, **how))
    runs: dict[str, dict[float | None, dict[str, Any]]] = {}
    for (way, share), run in compute("few_steps", cells, engine=read_engine(arguments)).items():
        runs.setdefault(way, {})[share] = run
    plain = runs[PLAIN].pop(None)
    results: dict[str, Any] = {
        way: {f"{share:g}": compare(plain, run) for share, run in by.items()} for way, by in runs.items()
    }
    whole = compare(plain, plain)
    results[PLAIN]["1"] = whole
    for share in shares:
        results[PLAIN][f"{share:g}"] = {"gain": compare(plain, plain, share * spent)["gain"]}
    settings = {
        "captions": captions, "seeds": f"200 to {199 + seeds}", "reward": "brightness",
        "num_inference_steps": many, "steps": steps, "shares": shares,
        "plain_judged_at": EARLY, "rate": 0.01, "small": small,
    }  # fmt: skip
    write("few_steps", settings=settings, results=results, verdict=verdict(results, spent),
          figure=draw(results, plain, spent), **({"out": CELLS / "small"} if small else {}))  # fmt: skip


if __name__ == "__main__":
    main()
