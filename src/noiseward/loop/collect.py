"""Collecting a run's steps into a solution.

:func:`collect` folds the steps of `iterate` into a :class:`Solution`; :func:`pass_and_collect` passes the steps on
meanwhile; :func:`optimize` iterates and collects in one call. A Ctrl-C between the first step and the last ends the
run, not the program: the best so far is the result. The same holds when memory runs out.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Generator, Iterable
from typing import Any

from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardWarning, OutOfMemory
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.optimizer import Optimizer
from noiseward.loop.solution import Frames, Solution
from noiseward.loop.step import Step
from noiseward.noise.layout import Seeds

__all__ = ["Past", "collect", "optimize", "pass_and_collect"]


@dataclasses.dataclass(frozen=True)
class Past:
    """What a run that continues already has: its first evaluation, its records, its frames."""

    initial: Evaluation
    history: list[dict[str, Any]]
    frames: Frames


def collect(steps: Iterable[Step], objective: Objective, *, past: Past | None = None) -> Solution:
    """Fold steps into a solution; the arguments are those of `pass_and_collect`."""
    passing = pass_and_collect(steps, objective, past=past)
    while True:
        try:
            next(passing)
        except StopIteration as end:
            return end.value


def pass_and_collect(
    steps: Iterable[Step], objective: Objective, *, past: Past | None = None
) -> Generator[Step, None, Solution]:
    """Pass steps on, and return the solution when they end (`solution = yield from pass_and_collect(...)`).

    On KeyboardInterrupt after the first step, the rows still running get `Status.INTERRUPTED` and the run ends; on
    `OutOfMemory` they get `Status.MEMORY`, and a warning names what needs less.

    Arguments:
        steps: what `iterate` yields.
        objective: what it maximizes.
        past: what was before, where the steps continue an earlier run.
    """
    history, frames = ([], Frames()) if past is None else (list(past.history), past.frames)
    first = last = ended = None
    try:
        for step in steps:
            if first is None:
                history = [record for record in history if record["index"] < step.index]
            history.append(step.record())
            frames.add(step.index, step.evaluation.sample)
            first, last = first or step, step
            yield step
    except KeyboardInterrupt:
        if last is None:
            raise
        ended = Status.INTERRUPTED
        history = [record for record in history if record["index"] <= last.index]
    except OutOfMemory as error:
        if last is None:
            raise
        ended = Status.MEMORY
        warnings.warn(f"{error}; the best so far was kept", NoisewardWarning, stacklevel=2)
    if first is None or last is None:
        raise ArgumentError("expected at least one step, got none; the iterator may have been used up already")
    best = last.best
    return Solution(
        noise=best.noise,
        sample=best.sample,
        reward=best.reward,
        value=best.value,
        index=best.index,
        initial=first.evaluation if past is None else past.initial,
        status=tuple(ended if ended and old is Status.RUNNING else old for old in last.status),
        history=history,
        frames=frames,
        last=last,
        layout=objective.sampler.layout,
    )


def optimize(
    objective: Objective, start: Tensor | Step, *, optimizer: Optimizer, budget: Budget, seeds: Seeds | None = None
) -> Solution:
    """Optimize until the budget is spent: `collect(iterate(...))`; see `iterate` for the arguments.

    Example:
        >>> from noiseward.optimizers.ascend import GradientAscent
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> solution = optimize(
        ...     Objective(sampler, Quadratic(1.0)),
        ...     sampler.init(2, seed=0),
        ...     optimizer=GradientAscent(lr=0.1),
        ...     budget=Budget(steps=50),
        ... )
        >>> bool((solution.reward > -0.01).all()), solution.dead_draws
        (True, ('step 4',))
    """
    return collect(iterate(objective, start, optimizer=optimizer, budget=budget, seeds=seeds), objective)
