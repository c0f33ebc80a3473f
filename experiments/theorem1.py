r"""Theorem 1: does a plain step of size l raise the expected reward by as much as is guaranteed?

For an L-smooth :math:`f = r \circ M` the descent lemma gives, for :math:`z' = z + \ell \nabla f(z)`,

.. math:: \mathbb{E} f(z') \ge \mathbb{E} f(z) + \big( \ell - \tfrac12 \ell^2 L \big) \, \mathbb{E} \|\nabla f(z)\|^2,

a rise for every :math:`\ell < 2 / L`, largest at 1 / L. L is measured as in `smoothness.py`, at fresh noise and along
an ascent with steps of 1 / L, and the largest value taken: a lower bound of the true L, so that a step could break the
inequality with ours and not the theorem. Where it holds all the same, the local value is enough in practice.

Three maps: Gaussian data under DDIM with a quadratic reward, where all is known (:math:`L = \|w\|^2`, w the weights of
the draws, and the inequality is an equality at every l, a fall beyond 2 / L included); the ring; the built-in model.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import built_in
from experiments.cells import Cell
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from experiments.report import format_mean, interval
from experiments.ring_model import load_ring, waves
from experiments.smoothness import ascend, curvature, in_packs, one_step
from noiseward import Objective
from noiseward.toys import GaussianModel, Quadratic

CLAIM = Claim(
    title="Every plain ascent step raises the expected reward (Theorem 1)",
    paper="if reward and sampler together are L-smooth, a step of size l raises the expected reward by at least "
    "(l - l² L / 2) times the expected squared gradient norm",
    source="Theorem 1 of the paper; its right-hand side is derived here from the same assumption",
    minutes=40,
)
MODELS = ("Gaussian toy", "ring", "stickers, brightness", "stickers, contrast")
ASCENTS = (0.5, 1.0, 1.9, 2.5)  # step sizes of whole ascents, times L
STEPS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 1.9, 2.0, 2.25, 2.5, 3.0, 4.0)  # of single steps, times L


def problem(name: str, rows: int, request: Request) -> tuple[Objective, Tensor]:
    """The objective, and the noise to start from."""
    if name == "Gaussian toy":
        sampler = GaussianModel(steps=20, dim=4, dtype=torch.float64).sampler()
        return Objective(sampler, Quadratic(2.0)), sampler.init(rows, seed=0)
    if name == "ring":
        sampler = load_ring(request).sampler()
        return Objective(sampler, waves), sampler.init(rows, seed=0)
    prompts, seeds = built_in.pairs(max(1, rows // 2), min(rows, 2))
    steps = {"num_inference_steps": 2} if request.size == "smoke" else {}
    objective = built_in.objective(name.rpartition(" ")[2], prompts, **steps)
    return objective, objective.sampler.init(rows, seed=seeds)


def measure_curvature(objective: Objective, noise: Tensor, *, iterations: int, pack: int) -> tuple[Tensor, Tensor]:
    """Squared gradients and L of every row, a few rows at a time."""
    parts = in_packs(
        lambda rows: curvature(objective.rows(range(len(noise))[rows]), noise[rows], iterations=iterations),
        len(noise),
        pack,
    )
    return parts[0], parts[1]


def study(name: str, request: Request, *, rows: int, steps: int, iterations: int) -> dict[str, Any]:
    """L, ascents and single steps of one map."""
    objective, start = problem(name, rows, request)
    pack = 4 if name.startswith("stickers") else rows
    square, local = measure_curvature(objective, start, iterations=iterations, pack=pack)
    seen = [local]
    largest = local.max().item()
    at = ascend(objective, start, size=1 / largest, steps=steps)["last"]
    seen.append(measure_curvature(objective, at, iterations=iterations, pack=pack)[1])
    largest = torch.cat(seen).max().item()
    ascents = {}
    for times in ASCENTS:
        run = ascend(objective, start, size=times / largest, steps=steps)
        ascents[str(times)] = {"reward": run["reward"], "square": run["square"]}
    single = in_packs(
        lambda some: [one_step(objective.rows(range(rows)[some]), start[some], [t / largest for t in STEPS]).T],
        rows,
        pack,
    )[0].T
    found = {
        "L": largest,
        "L_fresh_median": local.median().item(),
        "L_fresh_max": local.max().item(),
        "square": interval(square.tolist()),
        "single": [interval(gains) for gains in single.tolist()],
        "guaranteed": [(times - times**2 / 2) / largest * square.mean().item() for times in STEPS],
        "ascents": {times: summarize_ascent(run, float(times) / largest, largest) for times, run in ascents.items()},
    }
    if name == "Gaussian toy":
        found["L_exact"] = GaussianModel(steps=20, dim=4).weights.square().sum().item()
    return found


def summarize_ascent(run: dict[str, Any], size: float, largest: float) -> dict[str, Any]:
    """By how much an ascent rose above its start, what each step gained, and what was guaranteed for it."""
    reward = torch.tensor(run["reward"], dtype=torch.float64)
    gain = reward.diff(dim=0)
    sure = (size - size**2 * largest / 2) * torch.tensor(run["square"], dtype=torch.float64)
    slack = 1e-9 * reward.abs().mean() if reward.abs().mean() > 0 else 0.0
    return {
        "rise": [interval(row) for row in (reward - reward[0]).tolist()],
        "gain": [interval(row) for row in gain.tolist()],
        "guaranteed": sure.mean(1).tolist(),
        "kept": (gain.mean(1) >= sure.mean(1) - slack).tolist(),
        "kept_by_rows": (gain >= sure - slack).double().mean().item(),
    }


def conduct(request: Request) -> Outcome:
    """Every map that was asked for."""
    cells: dict[str, Cell] = {}
    names = getattr(request.given, "models", None) or request.pick(MODELS, MODELS, MODELS[:3])
    for name in names:
        is_image = name.startswith("stickers")
        rows = request.pick(16, 4, 1) if is_image else request.pick(128, 64, 4)
        steps = request.pick(10, 3, 1) if is_image else request.pick(30, 10, 2)
        iterations = request.pick(8, 4, 1) if is_image else request.pick(20, 10, 2)
        key = {"map": name, "rows": rows, "moves": steps, "iterations": iterations,
               **({"model": built_in.version()} if is_image else {})}  # fmt: skip
        cells[name] = Cell(key, partial(study, name, request, rows=rows, steps=steps, iterations=iterations))
    found = request.cells(cells)
    settings = {
        "rows": request.pick([128, 16], [64, 4], [4, 1]), "steps": request.pick([30, 10], [10, 3], [2, 1]),
        "power_iterations": request.pick([20, 8], [10, 4], [2, 1]), "stickers": built_in.CALL,
        "seeds": "toys: noise 0, 1, ...; stickers: 1000 and 1001 for each caption; power iteration 0",
    }  # fmt: skip
    holds, steps = (sum(share(one)[place] for one in found.values()) for place in (0, 1))
    return Outcome(
        verdict=verdict(found),
        agreement="agrees" if holds == steps else "agrees in part",
        settings=settings,
        results=found,
        table=table(found),
        figure=draw(found),
    )


def share(one: dict[str, Any]) -> tuple[int, int]:
    """At how many steps of ascents below 2 / L the guarantee held, and of how many."""
    holds = [good for times, run in one["ascents"].items() if float(times) < 2 for good in run["kept"]]
    return sum(holds), len(holds)


def verdict(found: dict[str, Any]) -> str:
    """Where the guarantee held, how much more there was, and what happens beyond 2 / L."""
    sentences = []
    for name, one in found.items():
        holds, steps = share(one)
        at = STEPS.index(1.0)
        more = one["single"][at]["mean"] / one["guaranteed"][at]
        beyond = [run["gain"][0] for times, run in one["ascents"].items() if float(times) > 2][0]
        rows = min(run["kept_by_rows"] for times, run in one["ascents"].items() if float(times) < 2)
        sentences.append(
            f"{name}: L {one['L']:.3g} (median row {one['L_fresh_median']:.3g}), holds at {holds} of {steps} steps (by "
            f"{rows:.1%} of rows alone or more), at l = 1/L the gain is {more:.2f} times the guaranteed; at 2.5/L the "
            f"first step {'falls' if beyond['mean'] < 0 else 'still gains'} ({beyond['mean']:+.2g})"
        )
    toy = found.get("Gaussian toy")
    if toy:
        sentences.append(f"L of the toy is {toy['L']:.6f} by power iteration, {toy['L_exact']:.6f} exactly")
    return "; ".join(sentences)


def table(found: dict[str, Any]) -> list[list[str]]:
    """Per map: L, and gains of a first step next to the guarantee."""
    shown = (0.5, 1.0, 1.9, 2.5)
    head = ["map", "L (at least)", "E of squared gradient", "steps below 2/L that kept it"]
    lines = [[*head, *(f"first step {times:g}/L: gain (guaranteed)" for times in shown)]]
    for name, one in found.items():
        gains = [
            f"{one['single'][STEPS.index(t)]['mean']:.3g} ({one['guaranteed'][STEPS.index(t)]:.3g})" for t in shown
        ]
        holds, steps = share(one)
        lines.append([name, f"{one['L']:.4g}", format_mean(one["square"], 4), f"{holds} of {steps}", *gains])
    return lines


def draw(found: dict[str, Any]) -> Figure:
    """Above, ascents with what was guaranteed; below, a single step of every size against the parabola."""
    figure = Figure(figsize=(3.9 * len(found), 6.6), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for (name, one), above, below in zip(found.items(), panels[0], panels[1], strict=True):
        styles = zip(one["ascents"].items(), ("0.6", "0", "0.35", "C1"), "osv^", strict=True)
        for place, ((times, run), shade, mark) in enumerate(styles):
            mean = [rise["mean"] for rise in run["rise"]]
            every, label = max(1, len(mean) // 8), f"l = {times}/L"
            above.plot(mean, color=shade, marker=mark, markevery=every, markersize=4, label=label)
            end = len(mean) - 1 + (place + 1) * 0.02 * len(mean)
            above.errorbar([end], mean[-1:], [run["rise"][-1]["half"]], color=shade, capsize=2)
            if float(times) < 2:
                sure = torch.tensor([0.0, *run["guaranteed"]]).cumsum(0)
                above.plot(sure, ":", color=shade)
        lowest = min(rise["mean"] for times, run in one["ascents"].items() if float(times) < 2 for rise in run["rise"])
        highest = max(rise["mean"] for run in one["ascents"].values() for rise in run["rise"])
        room = 0.4 * (highest - lowest)
        above.set(
            title=name,
            xlabel="steps",
            ylabel="rise of the expected reward",
            ylim=(lowest - room, highest + room / 4),
        )
        gains, halves = zip(*((gain["mean"], gain["half"]) for gain in one["single"]), strict=True)
        below.errorbar(STEPS, gains, halves, color="black", marker="o", markersize=4, capsize=2, label="measured")
        below.plot(STEPS, one["guaranteed"], "--", color="C1", label="guaranteed at least")
        below.axhline(0, color="0.6", linewidth=0.8)
        below.axvline(2, color="0.6", linewidth=0.8, linestyle=":")
        below.set(xlabel="step size l, in units of 1/L", ylabel="reward gained by the first step")
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    panels[0, 0].annotate("dotted: guaranteed", (0.98, 0.02), xycoords="axes fraction", ha="right", fontsize=8)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Which maps."""
    parser.add_argument("--models", nargs="*", choices=MODELS, help="these maps only")


if __name__ == "__main__":
    main("theorem1", CLAIM, conduct, options=options)
