"""How time and memory of a step grow: with sampler steps, image size, rows and candidates, on the built-in model.

Every point is a process of its own: processor seconds of a step (the median of several) and how far the process's
high-water mark rises above the loaded model. Through the points of each curve goes the straight line of least squares;
its slope, and how far the last stretch is steeper than the first (1 is straight), say how cost grows and where it
bends. Size is counted in pixels, not along a side.

    python -m benchmarks.growth [--small]
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.timing import RESULTS, write
from noiseward import Backprop, DiffusersSampler, Estimator, Hybrid2, Objective, Seeds, stickers
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import make_reward
from noiseward.samplers.memory import MODES

BASE = {"steps": 10, "side": 64, "rows": 1, "candidates": 0}
AXES: dict[str, tuple[int, ...]] = {
    "steps": (5, 10, 20, 40),
    "side": (64, 96, 128, 160),
    "rows": (1, 2, 4, 8),
    "candidates": (4, 8, 16, 32),
}
LABELS = {
    "steps": "sampler steps",
    "side": "pixels",
    "rows": "rows",
    "candidates": "candidates of Hybrid2, 16 at a time",
}


def measure(mode: str, point: dict[str, int], turns: int) -> dict[str, float]:
    """Processor seconds of a step and MB beyond the loaded model, in this process."""
    torch.set_num_threads(1)
    pipe = load_pipeline(stickers.path())
    side = {"height": point["side"], "width": point["side"]}
    sampler = DiffusersSampler(
        pipe, memory=mode, num_inference_steps=point["steps"], guidance_scale=3.0, eta=1.0, **side
    )
    estimator: Estimator = Hybrid2(point["candidates"], chunk=16) if point["candidates"] else Backprop()
    objective = Objective(sampler, make_reward("brightness"), ["a duck"] * point["rows"])
    gc.collect()
    before, seconds = high_water(), []
    noise, seeds = sampler.init(point["rows"]), Seeds(tuple(range(point["rows"])))
    for _ in range(turns + 1):
        begun = time.process_time()
        estimator(objective, noise, seeds)
        seconds.append(time.process_time() - begun)
    return {"seconds": statistics.median(seconds[1:]), "MB": high_water() - before}


def high_water() -> float:
    """The most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_in_process(mode: str, point: dict[str, int], turns: int) -> dict[str, float]:
    """`measure`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--once", mode, json.dumps(point), str(turns)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def line(x: list[float], y: list[float]) -> dict[str, float]:
    """The straight line of least squares: slope, value at 0, largest distance from it as a share of the highest point,
    and how many times steeper the last stretch is than the first.
    """
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    start = mean_y - slope * mean_x
    far = max(abs(b - start - slope * a) for a, b in zip(x, y, strict=True)) / max(y)
    first, last = ((y[k + 1] - y[k]) / (x[k + 1] - x[k]) for k in (0, len(x) - 2))
    return {"slope": slope, "start": start, "far": far, "bend": last / first if first else float("nan")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two modes, two short axes, one turn")
    parser.add_argument("--once", nargs=3, metavar=("MODE", "POINT", "TURNS"), help="one point, printed as JSON")
    given = parser.parse_args()
    if given.once:
        print(json.dumps(measure(given.once[0], json.loads(given.once[1]), int(given.once[2]))))
        return
    axes, modes, turns = ({"steps": (2, 4, 6), "rows": (1, 2, 3)}, MODES[:2], 1) if given.small else (AXES, MODES, 3)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, values in axes.items():
        for mode in modes:
            base = {**BASE, "steps": 2} if given.small else BASE
            points = [measure_in_process(mode, {**base, axis: value}, turns) for value in values]
            x = [float(value**2 if axis == "side" else value) for value in values]
            lines = {what: line(x, [point[what] for point in points]) for what in ("seconds", "MB")}
            found.setdefault(axis, {})[mode] = {"x": x, "points": points, "lines": lines}
            print(axis, mode, [f"{p['seconds']:.2f} s {p['MB']:.0f} MB" for p in points], flush=True)
    settings = {"base": BASE, "axes": axes, "turns": turns, "threads": 1, "model": "stickers", "small": given.small}
    write("growth", settings=settings, results=found, text=page(found), small=given.small)
    if not given.small:
        draw(found).savefig(RESULTS / "growth.png", dpi=110)


def page(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The table people read. Time is in units of the first point of `fast` in its row's axis."""
    lines = [
        "# How a step's cost grows",
        "",
        f"The built-in model from {BASE['steps']} sampler steps, {BASE['side']} x {BASE['side']} pixels and one row, "
        "one thread, a fresh process per point. Time as multiples of the axis' first point in `fast`. *Bend*: how many "
        "times steeper the last stretch is than the first. *Off*: the largest distance from the straight line, of the "
        "highest point. `python -m benchmarks.growth` regenerates this page.",
        "",
        "| along | from, to | mode | time at both ends | bend | off | MB at both ends | MB per unit | bend | off |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for axis, by_mode in found.items():
        unit = next(iter(by_mode.values()))["points"][0]["seconds"]
        for mode, one in by_mode.items():
            first, last = (one["points"][k] for k in (0, -1))
            time_, room = one["lines"]["seconds"], one["lines"]["MB"]
            lines.append(
                f"| {LABELS[axis]} | {one['x'][0]:.0f}, {one['x'][-1]:.0f} | {mode} "
                f"| {first['seconds'] / unit:.2f}, {last['seconds'] / unit:.2f} | {time_['bend']:.2f} "
                f"| {time_['far']:.0%} | {first['MB']:.0f}, {last['MB']:.0f} | {room['slope']:.3g} "
                f"| {room['bend']:.2f} | {room['far']:.0%} |"
            )
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """Time above, memory below; a column per axis."""
    figure = Figure(figsize=(3.6 * len(found), 6), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (axis, by_mode) in enumerate(found.items()):
        unit = next(iter(by_mode.values()))["points"][0]["seconds"]
        for (mode, one), style, mark in zip(by_mode.items(), ("-", "--", ":"), "os^", strict=False):
            for row, (what, scale) in enumerate((("seconds", unit), ("MB", 1.0))):
                axes, fit = panels[row][column], one["lines"][what]
                (drawn,) = axes.plot(one["x"], [p[what] / scale for p in one["points"]], mark, label=mode)
                ends = [one["x"][0], one["x"][-1]]
                straight = [(fit["start"] + fit["slope"] * x) / scale for x in ends]
                axes.plot(ends, straight, linestyle=style, color=drawn.get_color())
        for axes in (panels[0][column], panels[1][column]):
            axes.set(xlabel=LABELS[axis])
            axes.set_ylim(bottom=0)  # when all is drawn: it ends autoscaling
            axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("time of a step, first point = 1")
    panels[1][0].set_ylabel("MB above the loaded model")
    panels[0][0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
