"""What cheaper gradients are worth: their cosine to the exact one along a run, and the reward in equal time.

*Bias*: an exact run on the built-in model; every few steps, each cheaper direction is computed at the noise the run
has reached, and compared with the exact one, row by row, over all draws. *Worth*: every estimator gets the processor
time that the exact one takes for its steps, from the same noise with the same optimizer.

    python -m experiments.gradient_dial [--small] [--part 0/2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import built_in
from experiments.cells import CELLS, Cell, add_engine, compute, read_engine
from experiments.report import format_mean, interval, write
from noiseward import Annealed, Backprop, Budget, Estimator, GradientAscent, Objective, Seeds, Step, iterate

NAME = "gradient_dial"
LAST = 3
REWARDS = ("brightness", "contrast", "clip")
PARTS = (0.25, 0.5, 1.0)  # of the exact run's time, at which rewards are compared
STYLES = dict(zip(("exact", "last", "last, linear before", "linear", "annealed"), ("-", ":", "-.", "--", (0, (8, 2))),
                  strict=True))  # fmt: skip


def estimators(steps: int) -> dict[str, Estimator]:
    """Every setting of the dial; the anneal is exact from half the exact run's steps on."""
    return {
        "exact": Backprop(),
        "last": Backprop(LAST),
        "last, linear before": Backprop(LAST, through="linear"),
        "linear": Backprop(through="linear"),
        "annealed": Annealed(max(steps // 2, 1)),
    }


def problem(reward: str, shape: dict[str, int]) -> tuple[Objective, torch.Tensor]:
    """The objective, and the noise to start from."""
    prompts, seeds = built_in.pairs(shape["prompts"], shape["seeds"])
    objective = built_in.objective(reward, prompts, num_inference_steps=shape["num_inference_steps"])
    return objective, objective.sampler.init(len(seeds), seed=seeds)


def bias(reward: str, shape: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """For each cheap estimator and each step looked at, the cosine of every row."""
    objective, noise = problem(reward, shape)
    cheap = {name: each for name, each in estimators(shape["moves"]).items() if name != "exact"}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in cheap}
    every = max(shape["moves"] // 6, 1)
    for step in iterate(objective, noise, optimizer=GradientAscent(), budget=Budget(steps=shape["moves"])):
        if step.index % every or step.next_noise is None:
            continue
        seeds = Seeds(tuple(range(len(noise))), step=step.index)
        _, exact = Backprop()(objective, step.noise, seeds)
        for name, each in cheap.items():
            _, direction = each(objective, step.noise, seeds)
            found[name][str(step.index)] = torch.cosine_similarity(direction.flatten(1), exact.flatten(1)).tolist()
    return found


def run_ascent(reward: str, name: str, shape: dict[str, int], seconds: float | None) -> list[dict[str, Any]]:
    """For each step its processor seconds and every row's best reward so far; the exact run ends after its steps."""
    objective, noise = problem(reward, shape)
    budget = Budget(steps=shape["moves"]) if seconds is None else Budget(seconds=seconds)
    ascent = GradientAscent(estimators(shape["moves"])[name])
    steps = iterate(objective, noise, optimizer=ascent, budget=budget, clock=time.process_time)
    return [_record(step) for step in steps]


def _record(step: Step) -> dict[str, Any]:
    best, likely = step.best.reward.tolist(), step.best.probability.tolist()
    return {"seconds": step.seconds, "best": best, "probability": likely, "backward": step.spent.backward}


def gains(course: list[dict[str, Any]], until: float) -> list[float]:
    """How far each row had risen after so many seconds."""
    reached = [note for note in course if note["seconds"] <= until] or course[:1]
    return [b - a for a, b in zip(course[0]["best"], reached[-1]["best"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one reward, 2 rows, 4 sampler steps, 4 steps")
    add_engine(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"num_inference_steps": 10, "moves": 30, "prompts": 4, "seeds": 2}
    if given.small:
        shape = {"num_inference_steps": 4, "moves": 4, "prompts": 2, "seeds": 1}
    rewards = [name for name in (REWARDS[:1] if given.small else REWARDS) if built_in.is_installed(name)]
    keys = {reward: {"reward": reward, "shape": shape, "last": LAST, "model": built_in.version()} for reward in rewards}
    run = partial(compute, NAME, engine=read_engine(given))
    cosines = run({r: Cell({**key, "what": "bias"}, partial(bias, r, shape)) for r, key in keys.items()})
    first, *others = estimators(shape["moves"])  # the exact gradient, whose time the others have
    exact = run(
        {r: Cell({**key, "what": first}, partial(run_ascent, r, first, shape, None)) for r, key in keys.items()}
    )
    rest = run({
        (r, name): Cell({**key, "what": name}, partial(run_ascent, r, name, shape, exact[r][-1]["seconds"]))
        for r, key in keys.items() for name in others
    })  # fmt: skip
    results: dict[str, Any] = {
        r: {"cosine": cosines[r], "courses": {first: exact[r], **{name: rest[r, name] for name in others}}}
        for r in rewards
    }
    means = {reward: summarize(each) for reward, each in results.items()}
    settings = {**shape, "last": LAST, "rewards": rewards, "lr": 0.01, "threads": 1, "small": given.small}
    where: dict[str, Any] = {"out": CELLS / NAME} if given.small else {}
    write(NAME, settings=settings, results=means, verdict=verdict(means), figure=draw(results), **where)


def summarize(found: dict[str, Any]) -> dict[str, Any]:
    """Means with intervals: cosines by step, gains by share of the exact run's time, P(z) at the end."""
    courses = found["courses"]
    whole = courses["exact"][-1]["seconds"]
    return {
        "cosine": {n: {step: interval(rows) for step, rows in by.items()} for n, by in found["cosine"].items()},
        "gain": {n: {str(p): interval(gains(course, p * whole)) for p in PARTS} for n, course in courses.items()},
        "probability": {n: interval(course[-1]["probability"]) for n, course in courses.items()},
        "moves": {n: len(course) - 1 for n, course in courses.items()},
        "seconds": whole,
    }


def verdict(means: dict[str, Any]) -> str:
    """Per reward: the cosine at the first and the last step looked at, and the gain in equal time."""
    lines = []
    for reward, each in means.items():
        parts = []
        for name, by in each["cosine"].items():
            first, last = (list(by.values())[k] for k in (0, -1))
            gain = format_mean(each["gain"][name]["1.0"], 3)
            parts.append(f"{name}: cosine {first['mean']:.2f} to {last['mean']:.2f}, gain {gain}")
        lines.append(f"{reward}, exact gain {format_mean(each['gain']['exact']['1.0'], 3)}; " + "; ".join(parts))
    return ". ".join(lines)


def draw(results: dict[str, Any]) -> Figure:
    """Cosines above, rewards against time below; a column per reward."""
    figure = Figure(figsize=(4.6 * len(results), 6.4), layout="constrained")
    panels = figure.subplots(2, len(results), squeeze=False)
    for column, (reward, found) in enumerate(results.items()):
        above, below = panels[0][column], panels[1][column]
        for name, by in found["cosine"].items():
            means = [statistics.fmean(rows) for rows in by.values()]
            above.plot([int(step) for step in by], means, linestyle=STYLES[name], marker="o", ms=3, label=name)
        above.set(
            title=reward, xlabel="step of the exact run", ylabel="cosine to the exact gradient", ylim=(-0.05, 1.05)
        )
        whole = found["courses"]["exact"][-1]["seconds"]
        for name, course in found["courses"].items():
            x = [note["seconds"] / whole for note in course]
            y = [statistics.fmean(note["best"]) for note in course]
            color = "black" if name == "exact" else None
            below.plot(x, y, linestyle=STYLES[name], color=color, label=name)
        below.set(xlabel="processor time, exact run = 1", ylabel="best reward so far, mean of rows")
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
