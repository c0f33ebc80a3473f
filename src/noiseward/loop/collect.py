"""Collecting a run's steps into a solution.

A :class:`Collector` folds the steps of `iterate` into a :class:`Solution`, :func:`collect` folds all of them, and
:func:`optimize` iterates and collects in one call. A Ctrl-C between the first step and the last ends the run, not the
program: the best so far is the result. The same holds when memory runs out, or a judge may not cost more.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, final

from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardWarning, OutOfMemory, SpendingLimit
from noiseward.loop.about import About
from noiseward.loop.budget import Budget, Status
from noiseward.loop.frames import Frames
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.optimizer import Optimizer
from noiseward.loop.solution import Solution
from noiseward.loop.step import Step
from noiseward.noise.layout import Seeds

__all__ = ["Collector", "Past", "collect", "optimize"]

NOTHING = About()


@dataclasses.dataclass(frozen=True)
class Past:
    """What a run that continues already has: its first evaluation, its records, its frames."""

    initial: Evaluation
    history: list[dict[str, Any]]
    frames: Frames


@final
class Collector:
    """Folds steps into a solution.

    As the context of a `with`, it ends a run early instead of failing: on KeyboardInterrupt after the first step, the
    rows still running get `Status.INTERRUPTED`; on `OutOfMemory` they get `Status.MEMORY`, and on `SpendingLimit`
    `Status.COST`; a warning names what to do.

    Arguments:
        objective: what the steps maximize.
        past: what was before, where the steps continue an earlier run.
        method: what makes the steps, in words.
        about: what was asked.
    """

    def __init__(
        self, objective: Objective, past: Past | None = None, *, method: str | None = None, about: About = NOTHING
    ) -> None:
        self._objective, self._past, self._method, self._about = objective, past, method, about
        self._history, self._frames = ([], Frames()) if past is None else (list(past.history), past.frames)
        self._first: Step | None = None
        self._last: Step | None = None
        self._ended: Status | None = None

    def add(self, step: Step) -> None:
        """Take the next step."""
        if self._first is None:
            self._first = step
            self._history = [record for record in self._history if record["index"] < step.index]
        self._history.append(step.record())
        self._frames.add(step.index, step.evaluation.sample)
        self._last = step

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._last is None or not isinstance(error, KeyboardInterrupt | OutOfMemory | SpendingLimit):
            return False
        if isinstance(error, OutOfMemory | SpendingLimit):
            self._ended = Status.MEMORY if isinstance(error, OutOfMemory) else Status.COST
            warnings.warn(f"{error}; the best so far was kept", NoisewardWarning, stacklevel=2)
        else:
            self._ended = Status.INTERRUPTED
        return True

    @property
    def solution(self) -> Solution:
        """What the steps so far make up.

        Raises:
            ArgumentError: there were none.
        """
        first, last, ended = self._first, self._last, self._ended
        if first is None or last is None:
            raise ArgumentError("expected at least one step, got none; the iterator may have been used up already")
        return Solution(
            found=last.best,
            initial=first.evaluation if self._past is None else self._past.initial,
            status=tuple(ended if ended and old is Status.RUNNING else old for old in last.status),
            history=self._history,
            frames=self._frames,
            layout=self._objective.sampler.layout,
            peaks=last.peaks,
            peak=last.peak,
            untested=last.untested,
            method=self._method,
            last=last,
            about=self._about,
        )


def collect(
    steps: Iterable[Step], objective: Objective, *, past: Past | None = None, method: str | None = None
) -> Solution:
    """Fold steps into a solution.

    Arguments:
        steps: what `iterate` yields.
        objective: what it maximizes.
        past: what was before, where the steps continue an earlier run.
        method: what makes the steps, in words.

    Raises:
        ArgumentError: there are no steps.
    """
    collector = Collector(objective, past, method=method)
    with collector:
        for step in steps:
            collector.add(step)
    return collector.solution


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
