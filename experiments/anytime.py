"""One run, read off at several times: a search or an ascent keeps its best, so every smaller budget is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from noiseward import Budget, Objective, Optimizer, Seeds, Step, iterate
from noiseward.loop.step import Best

__all__ = ["anytime", "clock"]


def clock(device: torch.device) -> Callable[[], float]:
    """Wall time where there is a GPU; on a processor its own time, that of a machine that does nothing else."""
    return time.process_time if device.type == "cpu" else time.monotonic


def anytime(
    objective: Objective, start: Tensor, *, optimizer: Optimizer, marks: Sequence[float], seeds: Sequence[int]
) -> tuple[Step, list[Best]]:
    """Optimize until the last mark.

    Arguments:
        objective: what to optimize.
        start: noise `(B, *noise_shape)`.
        optimizer: how.
        marks: seconds, growing.
        seeds: of the optimizer's random choices, one per row.

    Returns:
        the first step, and the best at each mark, of whatever was evaluated by then; the start where nothing else was.
    """
    found: list[Best] = []
    first = before = None
    steps = iterate(
        objective, start, optimizer=optimizer, budget=Budget(seconds=marks[-1]), seeds=Seeds(tuple(seeds)),
        clock=clock(start.device),
    )  # fmt: skip
    for step in steps:
        first = first or step
        while len(found) < len(marks) and step.seconds > marks[len(found)]:
            found.append((before or step).best)
        before = step
    assert first is not None and before is not None  # iterate yields at least one step
    return first, found + [before.best] * (len(marks) - len(found))
