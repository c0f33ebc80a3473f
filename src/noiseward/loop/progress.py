"""Live progress bars as consumers of steps: reward, P(z), denoiser calls and time left."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, final

from noiseward import terminal
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import Step
from noiseward.samplers.discovery import report_calls

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["Bars", "share_spent"]

BAR = 16
PATIENCE = 2.0  # seconds before a sign of life
BESIDE = BAR + len(" 100%   ")  # what stands on a line beside words


@final
class Bars:
    """Live bars that steps pass by, one below the other where one run is part of another.

    Where nobody looks, a line is printed per tenth of a budget.

    Arguments:
        console: where to draw; default: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn

        self.console = console or terminal.console(stderr=True)
        columns = [
            terminal.column("{task.description}"),
            BarColumn(BAR),
            TaskProgressColumn(),
            terminal.column("{task.fields[left]}"),
        ]
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._open = 0

    def watch(self, steps: Iterable[Step], budget: Budget, *, name: str = "") -> Iterator[Step]:
        """Pass steps on while a bar shows how far the budget is spent.

        Arguments:
            steps: what `iterate` yields.
            budget: the same budget.
            name: of the part of a run that they are.
        """
        tenth, before = -1, f"{name}: " if name else ""
        with self._bar(f"{before}sampling") as task:
            for step in steps:
                part = share_spent(step, budget)
                said, left = _say(step), _left(step, part)
                short = before + _fitting(said, self.console.width - len(before) - len(left) - BESIDE)
                self._progress.update(task, completed=part, description=short, left=left)
                if not self.console.is_terminal and int(part * 10) > tenth:
                    tenth = int(part * 10)
                    self.console.print(f"{before}{'  '.join(said)}  {left}", highlight=False, soft_wrap=True)
                yield step

    @contextlib.contextmanager
    def show_discovery(self, patience: float | None = None) -> Iterator[None]:
        """For the body of a `with`, say that a sampler's draws are being found out, once that takes a while.

        Arguments:
            patience: seconds before anything is said; default: 2.
        """
        wait = _Wait(self, PATIENCE if patience is None else patience)
        try:
            with report_calls(wait.told):
                yield
        finally:
            wait.told(None)

    @contextlib.contextmanager
    def _bar(self, said: str, total: float | None = 1.0) -> Iterator[TaskID]:
        """One more bar, for as long as it is watched."""
        if not self._open:
            self._progress.start()
        self._open += 1
        task = self._progress.add_task(said, total=total, left="")
        try:
            yield task
        finally:
            self._open -= 1
            self._progress.remove_task(task)
            if not self._open:
                self._progress.stop()


class _Wait:
    """A sign of life while a sampler's draws are found out, from a thread of its own: no call has to be over for it."""

    def __init__(self, bars: Bars, patience: float) -> None:
        self._bars, self._patience, self._lock = bars, patience, threading.Lock()
        self._calls, self._timer, self._stack = 0, None, contextlib.ExitStack()
        self._task: TaskID | None = None

    def told(self, calls: int | None) -> None:
        """How many denoiser calls were made so far; None: it is over."""
        with self._lock:
            if calls is None:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._task = None
                self._stack.close()
                return
            self._calls = calls
            if self._timer is None:
                self._timer = threading.Timer(self._patience, self._show)
                self._timer.daemon = True
                self._timer.start()
            elif self._task is not None:
                self._bars._progress.update(self._task, description=self._says())

    def _show(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            if self._bars.console.is_terminal:
                self._task = self._stack.enter_context(self._bars._bar(self._says(), total=None))
            else:
                self._bars.console.print(self._says(), highlight=False, soft_wrap=True)

    def _says(self) -> str:
        return f"finding out the sampler's draws{f': {self._calls} calls' if self._calls else ''}"


def share_spent(step: Step, budget: Budget) -> float:
    """How much of the budget is spent, by whichever limit is nearest."""
    bills = [(step.index, budget.steps), (step.seconds, budget.seconds), (step.nfe.cost, budget.nfe)]
    parts = [used / limit if limit else 1.0 for used, limit in bills if limit is not None]
    return 1.0 if _last(step) else min(max(parts), 1.0)


def _last(step: Step) -> bool:
    """Whether no other follows: with few steps first, the step at the start does not move either (`nested.py`)."""
    return step.next_noise is None and Status.RUNNING not in step.status


def _say(step: Step) -> list[str]:
    """Numbers of a step, the most telling first."""
    reward, best = step.evaluation.reward.mean().item(), step.best.reward.mean().item()
    least = step.probability.min().item()
    mean = "mean " if step.noise.shape[0] > 1 else ""
    panel = [f"{name} {held.mean().item():.3g}" for name, held in step.watched.items()]
    calls = f"NFE {step.nfe.forward}"
    return [f"step {step.index}", f"{mean}reward {reward:.4g}", f"P(z) {least:.2g}", f"best {best:.4g}", *panel, calls]


def _fitting(said: Sequence[str], width: int) -> str:
    """As many of some words, from the first on, as a width has room for.

    Example:
        >>> _fitting(["step 3", "reward 0.5", "best 0.7"], 20)
        'step 3  reward 0.5'
    """
    ends = itertools.accumulate((len(one) + 2 for one in said), initial=-2)
    return "  ".join(said[: max(1, sum(end <= width for end in ends) - 1)])


def _left(step: Step, part: float) -> str:
    if _last(step):
        return f"done in {step.seconds:.0f} s"
    if step.next_noise is None and step.index == 0:
        return "few steps first"
    return f"{math.ceil(step.seconds * (1 - part) / part)} s left" if part > 0 else ""
