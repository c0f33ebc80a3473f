"""What a step costs, in time and memory, against sampler steps, image size and batch, with and without recomputation.

The built-in model, one thread, one process per setting. Time is the processor time of a step, backpropagation included,
as a multiple of that of the base setting, so that a busy machine and its speed drop out; memory is how far the
process's high-water mark rises above what it was with the model loaded. The weights do not matter.
"""

from __future__ import annotations

import gc
import itertools
import math
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import built_in
from experiments.cells import Cell
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from experiments.report import interval
from noiseward import Budget, GradientAscent, iterate

CLAIM = Claim(
    title="What a step costs, and what checkpointing saves",
    paper="gradient checkpointing facilitates the backpropagation from the sample to the noise of all steps",
    source="caption of Figure 2",
    minutes=10,
)
BASE = {"num_inference_steps": 10, "height": 64, "batch": 1}
SWEEPS: dict[str, tuple[int, ...]] = {
    "num_inference_steps": (5, 10, 20, 40),
    "height": (64, 96, 128),
    "batch": (1, 2, 4),
}
LABELS = {
    "num_inference_steps": "sampler steps",
    "height": "image height and width, pixels",
    "batch": "rows in the batch",
}
MODES = {"fast": "activations kept", "balanced": "activations recomputed"}


def measure(setting: dict[str, int], memory: str, steps: int) -> dict[str, Any]:
    """Processor seconds of each step after the first, and the rise of the high-water mark, in MB."""
    torch.set_num_threads(1)
    sampler_steps, side = setting["num_inference_steps"], setting["height"]
    objective = built_in.objective("brightness", ["a duck"] * setting["batch"], memory=memory,
                                   num_inference_steps=sampler_steps, height=side, width=side)  # fmt: skip
    gc.collect()
    before, times = high_water(), [time.process_time()]
    ascent, start = GradientAscent(lr=0.01), objective.sampler.init(setting["batch"])
    for step in iterate(objective, start, optimizer=ascent, budget=Budget(steps=steps)):
        if step.next_noise is not None:
            times.append(time.process_time())
    return {
        "seconds": [b - a for a, b in zip(times[1:], times[2:], strict=False)],
        "megabytes": high_water() - before,
        "loaded": before,
        "nfe": step.spent.cost,
    }


def high_water() -> float:
    """The most memory this process ever held, in MB; nan where the system does not tell."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure_in_process(setting: dict[str, int], memory: str, steps: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose high-water mark is then its own too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, setting, memory, steps).result()


def conduct(request: Request) -> Outcome:
    """Every setting in both modes."""
    steps = request.pick(4, 3, 2)
    sweeps = request.pick(
        SWEEPS, {name: values[:2] for name, values in SWEEPS.items()}, {"num_inference_steps": (2, 3)}
    )
    base = BASE if request.size != "smoke" else {**BASE, "num_inference_steps": 2}
    run = measure if request.size == "smoke" else measure_in_process
    cells: dict[tuple[str, str, int], Cell] = {}
    for memory, (name, values) in itertools.product(MODES, sweeps.items()):
        for value in values:
            setting = {**base, name: value}
            key = {"setting": setting, "memory": memory, "moves": steps, "model": built_in.version()}
            cells[memory, name, value] = Cell(key, partial(run, setting, memory, steps))
    raw: dict[str, dict[str, Any]] = {}
    for (memory, name, value), found in request.cells(cells).items():
        raw.setdefault(memory, {}).setdefault(name, {})[str(value)] = found
    unit = statistics.median(raw["fast"]["num_inference_steps"][str(base["num_inference_steps"])]["seconds"])
    means = {
        memory: {
            name: {
                value: {
                    "time": interval([second / unit for second in one["seconds"]]),
                    "megabytes": one["megabytes"],
                    "nfe": one["nfe"],
                }
                for value, one in by.items()
            }
            for name, by in sweep.items()
        }
        for memory, sweep in raw.items()
    }  # fmt: skip
    grows = {memory: growth(means[memory]["num_inference_steps"], "megabytes") for memory in MODES}
    settings = {
        "base": base,
        "steps": steps,
        "seed": 0,
        "reward": "brightness",
        "threads": 1,
        "stickers": built_in.CALL,
    }
    return Outcome(
        verdict=verdict(means, grows),
        agreement="agrees" if grows["balanced"] < 0.5 * grows["fast"] else "contradicts",
        settings=settings,
        results={"sweeps": means, "growth": grows},
        table=table(means),
        figure=draw(means),
    )


def growth(by: dict[str, Any], part: str) -> float:
    """How many times more the last setting takes than the first."""
    values = list(by.values())
    return values[-1][part] / max(values[0][part], 1e-9)


def verdict(means: dict[str, Any], grows: dict[str, float]) -> str:
    """How memory and time grow with steps in both modes."""
    lengths = list(means["fast"]["num_inference_steps"])
    slower = [
        means["balanced"]["num_inference_steps"][s]["time"]["mean"]
        / means["fast"]["num_inference_steps"][s]["time"]["mean"]
        for s in lengths
    ]
    pace = means["fast"]["num_inference_steps"]
    return (
        f"from {lengths[0]} to {lengths[-1]} sampler steps memory grows {grows['fast']:.1f} times with activations "
        f"kept and {grows['balanced']:.1f} times with recomputation, which takes {min(slower):.2f} to "
        f"{max(slower):.2f} times as long; time grows "
        f"{pace[lengths[-1]]['time']['mean'] / pace[lengths[0]]['time']['mean']:.1f} times"
    )


def table(means: dict[str, Any]) -> list[list[str]]:
    """Every setting: time and memory in both modes."""
    lines = [["varied", "value", *(f"{what}, {label}" for label in MODES.values() for what in ("time", "MB"))]]
    for name, by in means["fast"].items():
        for value in by:
            cells = []
            for memory in MODES:
                one = means[memory][name][value]
                cells += [f"{one['time']['mean']:.2f}", f"{one['megabytes']:.0f}"]
            lines.append([LABELS[name], value, *cells])
    return lines


def draw(means: dict[str, Any]) -> Figure:
    """Time above, memory below, one column per thing varied."""
    sweeps = list(means["fast"])
    figure = Figure(figsize=(4 * len(sweeps), 6), layout="constrained")
    panels = figure.subplots(2, len(sweeps), squeeze=False)
    for name, above, below in zip(sweeps, panels[0], panels[1], strict=True):
        for (memory, label), line, mark in zip(MODES.items(), ("-", "--"), "os", strict=True):
            by = means[memory][name]
            x = [int(value) for value in by]
            style: dict[str, Any] = {
                "linestyle": line,
                "marker": mark,
                "color": "black" if line == "-" else "C1",
                "label": label,
            }
            mean, half = ([one["time"][part] for one in by.values()] for part in ("mean", "half"))
            above.errorbar(x, mean, half, capsize=3, **style)
            below.plot(x, [one["megabytes"] for one in by.values()], **style)
        for axes in (above, below):
            axes.set(xlabel=LABELS[name], xticks=[int(value) for value in means["fast"][name]], ylim=(0, None))
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("processor time of a step\n(10 steps, 64 px, 1 row, kept = 1)")
    panels[1, 0].set_ylabel("memory above the loaded model, MB")
    panels[0, 0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main("cost", CLAIM, conduct)
