"""Example 1 of the paper: how a toy model's samples shift as their noise is optimized for a bumpy reward.

A denoiser of a ring is trained here (`ring_model.py`); the noise of 1000 samples is optimized for sin 4 pi x + sin 4 pi
y - ((x - 1)^2 - y^2) / 5 all at once, by the exact gradient and by Hybrid-2 with 2 candidates, with DDIM and, for
comparison, with the sampler of the published notebook. Where that notebook prints numbers, they stand next to ours;
they are not expected digit for digit, since its denoiser is not available and it clips the gradient of all samples
together, and we each by its own norm.
"""

from __future__ import annotations

import io
import itertools
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

from experiments.cells import Cell
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from experiments.report import format_mean, interval
from experiments.ring_model import INNER, OUTER, Kind, inside, load_ring, round_samples, waves
from noiseward import Budget, GradientAscent, Hybrid2, Objective, iterate

CLAIM = Claim(
    title="The sample distribution of a toy model while its noise is optimized (Figure 3)",
    paper="running DNO shifts the whole sample distribution of a toy model to high values of a non-convex reward; the "
    "published notebook does so with the gradient and with Hybrid-2",
    source="caption of Figure 3; the numbers next to ours are the notebook's",
    minutes=30,
)
KINDS: tuple[Kind, ...] = ("ddim", "notebook")
METHODS = ("exact gradient", "hybrid2")
PUBLISHED = {  # mean reward by step, as the notebook prints it
    "exact gradient": {0: -0.325, 20: 1.000, 40: 1.231, 60: 1.385, 80: 1.487, 100: 1.552},
    "hybrid2": {0: -0.306, 50: 0.828, 100: 0.899, 150: 0.974, 200: 1.031, 250: 1.080},
}
EXPECTED = {"exact gradient": 1.5, "hybrid2": 1.0}  # by the last of these steps
RATE, CANDIDATES, SCALE = 0.01, 2, 0.01


def optimize(request: Request, kind: Kind, method: str, *, rows: int, steps: int) -> dict[str, Any]:
    """One run: numbers of every step, and where the samples are at every fifth of the way and at each frame."""
    sampler = load_ring(request).sampler(kind=kind)
    estimator = Hybrid2(CANDIDATES, SCALE, chunk=4096) if method == "hybrid2" else None
    objective, start = Objective(sampler, waves), sampler.init(rows, seed=0)
    optimizer = GradientAscent(estimator, lr=RATE)
    record: dict[str, Any] = {"reward": [], "inside": [], "probability": [], "samples": {}}
    for step in iterate(objective, start, optimizer=optimizer, budget=Budget(steps=steps)):
        sample = step.evaluation.sample
        record["reward"].append(interval(step.evaluation.reward.tolist()))
        record["inside"].append(inside(sample).float().mean().item())
        record["probability"].append(step.probability.median().item())
        if step.index % max(1, steps // 50) == 0:
            (record["samples"][str(step.index)],) = round_samples([sample])
    return record


def conduct(request: Request) -> Outcome:
    rows = request.pick(1000, 200, 8)
    steps = {"exact gradient": request.pick(100, 20, 1), "hybrid2": request.pick(250, 20, 1)}
    cells: dict[str, Cell] = {}
    for kind, method in itertools.product(request.pick(KINDS, KINDS, KINDS[:1]), METHODS):
        key = {"kind": kind, "method": method, "rate": RATE, "q": CANDIDATES, "scale": SCALE, "rows": rows,
               "moves": steps[method], "iterations": request.pick(12_000, 2_000, 20)}  # fmt: skip
        compute = partial(optimize, request, kind, method, rows=rows, steps=steps[method])
        cells[f"{kind}, {method}"] = Cell(key, compute)
    runs = request.cells(cells)
    settings = {
        "rows": rows, "seeds": "noise 0, 1, ...; denoiser 0", "steps": steps, "rate": RATE, "candidates": CANDIDATES,
        "scale": SCALE, "sampler_steps": 100, "eta": 1.0,
    }  # fmt: skip
    results = {
        name: {part: numbers for part, numbers in run.items() if part != "samples"} for name, run in runs.items()
    }
    text, reached = verdict(runs, steps)
    return Outcome(
        verdict=text,
        agreement="agrees" if reached else "contradicts",
        settings=settings,
        results=results,
        table=table(runs, steps),
        figure=draw(runs, steps),
        frames=film(runs, steps),
    )


def verdict(runs: dict[str, Any], steps: dict[str, int]) -> tuple[str, bool]:
    """How far DDIM came, and whether as far as expected."""
    ends = {method: runs[f"ddim, {method}"] for method in METHODS}
    reached = all(run["reward"][-1]["mean"] >= EXPECTED[method] for method, run in ends.items())
    text = "; ".join(
        f"{method} {format_mean(run['reward'][0], 2)} -> {format_mean(run['reward'][-1], 2)} in {steps[method]} steps "
        f"(published: {max(PUBLISHED[method].values()):.2f} in {max(PUBLISHED[method])}), {100 * run['inside'][0]:.0f} "
        f"% -> {100 * run['inside'][-1]:.0f} % of samples on the ring, median P(z) {run['probability'][-1]:.2g}"
        for method, run in ends.items()
    )
    return f"DDIM: {text}", reached


def table(runs: dict[str, Any], steps: dict[str, int]) -> list[list[str]]:
    """Mean reward at the steps the notebook prints."""
    lines = [["run", *(f"{k} / 5 of the way" for k in range(6)), "on the ring at the end, give or take 0.05"]]
    for method in METHODS:
        lines.append([f"published notebook, {method}", *(f"{one:.3f}" for one in PUBLISHED[method].values()), ""])
        for name, run in runs.items():
            if name.endswith(method):
                places = [steps[method] * k // 5 for k in range(6)]
                lines.append(
                    [name, *(format_mean(run["reward"][place], 3) for place in places), f"{run['inside'][-1]:.1%}"]
                )
    return lines


def backdrop(axes: Any) -> None:
    """The reward in gray, dark where it is high, and the two circles between which data lie."""
    side = torch.linspace(-1.7, 1.7, 171)
    y, x = torch.meshgrid(side, side, indexing="ij")
    height = waves(torch.stack([x, y], -1).view(-1, 2), None).view_as(x)
    axes.imshow(
        height, cmap="Greys", vmin=-2.5, vmax=4, extent=(-1.7, 1.7) * 2, origin="lower", interpolation="bilinear"
    )
    for radius in (INNER, OUTER):
        angle = torch.linspace(0, 2 * torch.pi, 200)
        axes.plot(radius * angle.cos(), radius * angle.sin(), color="black", linewidth=0.7, linestyle="--")
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")


def cloud(axes: Any, run: dict[str, Any], index: int) -> None:
    """The samples after some step."""
    x, y = zip(*run["samples"][str(index)], strict=True)
    axes.scatter(x, y, s=5, color="C1", edgecolors="black", linewidths=0.2)


def draw(runs: dict[str, Any], steps: dict[str, int]) -> Figure:
    """Panels of DDIM's samples along the way, and every run's mean reward."""
    figure = Figure(figsize=(15, 5.4))
    figure.set_layout_engine("constrained", w_pad=0.08)
    panels = figure.subplots(2, 6, width_ratios=(1, 1, 1, 1, 1, 1.5))
    for axes, method in zip(panels, METHODS, strict=True):
        run = runs[f"ddim, {method}"]
        known = [int(index) for index in run["samples"]]
        for k, panel in enumerate(axes[:5]):
            index = min(known, key=lambda one, k=k: abs(one - steps[method] * k / 4))
            backdrop(panel)
            cloud(panel, run, index)
            panel.set_title(f"{method}, step {index}", fontsize=9)
            panel.tick_params(labelsize=7)
        for (name, other), line in zip(runs.items(), ("-", "-", "--", "--"), strict=False):
            if name.endswith(method):
                mean = torch.tensor([one["mean"] for one in other["reward"]])
                half = torch.tensor([one["half"] for one in other["reward"]])
                axes[5].plot(mean, line, color="black" if line == "-" else "0.45", label=name)
                axes[5].fill_between(range(len(mean)), mean - half, mean + half, color="0.7", alpha=0.6)
        axes[5].plot(*zip(*PUBLISHED[method].items(), strict=True), "o", color="C1", mec="black", label="published")
        axes[5].set(xlabel="optimization steps", ylabel="mean reward (band: 95 %)", xlim=(0, steps[method] * 1.03))
        axes[5].grid(alpha=0.3)
        axes[5].legend(fontsize=8)
    return figure


def film(runs: dict[str, Any], steps: dict[str, int]) -> list[tuple[Image.Image, int]]:
    """DDIM's samples, the exact gradient next to Hybrid-2, at the same shares of their ways."""
    frames = []
    pairs = list(zip(*(runs[f"ddim, {method}"]["samples"] for method in METHODS), strict=False))
    for number, each in enumerate(pairs):
        figure = Figure(figsize=(6.4, 3.4), dpi=80, layout="constrained")
        for axes, method, index in zip(figure.subplots(1, 2), METHODS, map(int, each), strict=True):
            run = runs[f"ddim, {method}"]
            backdrop(axes)
            cloud(axes, run, index)
            axes.set_title(f"{method}: step {index}, reward {run['reward'][index]['mean']:.2f}", fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        last = number == len(pairs) - 1
        frames.append((Image.open(buffer).convert("RGB"), 2000 if number == 0 or last else 120))
    return frames


if __name__ == "__main__":
    main("ring", CLAIM, conduct)
