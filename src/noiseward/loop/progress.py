"""Live progress bars as consumers of steps: reward, P(z), denoiser calls and time left."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, final

from torch import Tensor

from noiseward import terminal
from noiseward.loop.budget import Budget, Status
from noiseward.loop.span import format_span
from noiseward.loop.step import Step
from noiseward.rewards.shortfall import is_met
from noiseward.samplers.discovery import report_calls
from noiseward.samplers.image_tests import report_fresh

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = [
    "Bars",
    "Display",
    "describe_cost",
    "describe_numbers",
    "describe_time_left",
    "report_fresh_samples",
    "share_spent",
]

BAR = 16
PATIENCE = 2.0  # seconds before a sign of life
FIXED = BAR + len(" 100%   ")  # what a line holds in addition to text


class Display(ABC):
    """Shows how a run goes, as its steps pass through."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def track(self, steps: Iterable[Step], budget: Budget, *, name: str = "") -> Iterator[Step]:
        """Pass steps on while showing how much of the budget is spent.

        Arguments:
            steps: what `iterate` yields.
            budget: the same budget.
            name: of the part of a run that they are.
        """

    @abstractmethod
    def show_discovery(self, patience: float | None = None) -> contextlib.AbstractContextManager[None]:
        """For the body of a `with`, show that a sampler's draws are being found out, once that takes a while.

        Arguments:
            patience: seconds before anything is shown; default: 2.
        """


@final
class Bars(Display):
    """Live bars that steps pass through, one below the other where one run is part of another.

    Without a terminal, a line is printed per tenth of a budget.

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

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def track(self, steps: Iterable[Step], budget: Budget, *, name: str = "") -> Iterator[Step]:
        tenth, prefix = -1, f"{name}: " if name else ""

        def report(made: int, of: int) -> None:
            self._progress.update(task, description=f"{prefix}fresh samples to compare with: {made} of {of}")

        with self._bar(f"{prefix}sampling") as task:
            for step in report_fresh_samples(steps, report):
                share = share_spent(step, budget)
                words, left = describe_numbers(step), describe_time_left(step, budget)
                short = prefix + _fit(words, self.console.width - len(prefix) - len(left) - FIXED)
                self._progress.update(task, completed=share, description=short, left=left)
                if not self.console.is_terminal and int(share * 10) > tenth:
                    tenth = int(share * 10)
                    self.console.print(f"{prefix}{'  '.join(words)}  {left}", highlight=False, soft_wrap=True)
                if step.index == 0 and (cost := describe_cost(step, budget)):
                    self.console.print(f"{prefix}{cost}", highlight=False, soft_wrap=True)
                yield step

    @contextlib.contextmanager
    def show_discovery(self, patience: float | None = None) -> Iterator[None]:
        wait = _Wait(self, PATIENCE if patience is None else patience)
        try:
            with report_calls(wait.update):
                yield
        finally:
            wait.update(None)

    @contextlib.contextmanager
    def _bar(self, text: str, total: float | None = 1.0) -> Iterator[TaskID]:
        """One more bar."""
        if not self._open:
            self._progress.start()
        self._open += 1
        task = self._progress.add_task(text, total=total, left="")
        try:
            yield task
        finally:
            self._open -= 1
            self._progress.remove_task(task)
            if not self._open:
                self._progress.stop()


def report_fresh_samples(steps: Iterable[Step], report: Callable[[int, int], None]) -> Iterator[Step]:
    """The same steps, with a report of the fresh samples that are made for one."""
    iterator = iter(steps)
    while True:
        with report_fresh(report):  # not across a yield, which others run behind
            step = next(iterator, None)
        if step is None:
            return
        yield step


class _Wait:
    """A sign of life during discovery, from a thread of its own, so that it can come in the middle of a call."""

    def __init__(self, bars: Bars, patience: float) -> None:
        self._bars, self._patience, self._lock = bars, patience, threading.Lock()
        self._calls, self._timer, self._stack = 0, None, contextlib.ExitStack()
        self._task: TaskID | None = None

    def update(self, calls: int | None) -> None:
        """Take the number of denoiser calls made so far; None: it is over."""
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
                self._bars._progress.update(self._task, description=self._text())

    def _show(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            if self._bars.console.is_terminal:
                self._task = self._stack.enter_context(self._bars._bar(self._text(), total=None))
            else:
                self._bars.console.print(self._text(), highlight=False, soft_wrap=True)

    def _text(self) -> str:
        return f"finding out the sampler's draws{f': {self._calls} calls' if self._calls else ''}"


def share_spent(step: Step, budget: Budget) -> float:
    """How much of the budget is spent, by whichever limit is nearest."""
    limits = [(step.index, budget.steps), (step.seconds, budget.seconds), (step.nfe.cost, budget.nfe)]
    shares = [used / limit if limit else 1.0 for used, limit in limits if limit is not None]
    return 1.0 if _is_last(step) else min(max(shares), 1.0)


def describe_cost(step: Step, budget: Budget) -> str | None:
    """What a run will cost, from its first step; None where no other follows."""
    seconds, calls = step.pace
    if step.next_noise is None or not calls or not seconds:
        return None
    each = f"the first step took {calls:,} NFE (denoiser calls per row; a backward counts 2) and {format_span(seconds)}"
    limits = [budget.steps]
    limits += [int((budget.seconds - step.seconds) / seconds) + 1] if budget.seconds is not None else []
    limits += [(budget.nfe - step.nfe.cost) // calls + 1] if budget.nfe is not None else []
    count = max(1, min(limit for limit in limits if limit is not None))
    if count != budget.steps:
        return f"{each}; the budget is enough for about {count} like it"
    total, time = step.nfe.cost + (count - 1) * calls, format_span(step.seconds + (count - 1) * seconds)
    return f"{each}; {count} like it take about {total:,} and {time}; Ctrl-C keeps the best so far"


def _is_last(step: Step) -> bool:
    """Whether no other follows; from coarse to fine, the step at the start has no next noise either."""
    return step.next_noise is None and Status.RUNNING not in step.status


def describe_numbers(step: Step) -> list[str]:
    """Numbers of a step, the most important first."""
    reward, best = (_describe_mean(scores) for scores in (step.evaluation.reward, step.best.reward))
    p, calls = step.probability.min().item(), f"NFE {step.nfe.cost:,}"
    mean = "mean " if step.noise.shape[0] > 1 else ""
    watched = [f"{name} {scores.mean().item():.3g}" for name, scores in step.watched.items()]
    images = [] if (step.best.image < 0).any() else [f"P(image) {step.best.image.min().item():.2g}"]
    likely = [f"P(z) {p:.2g}", f"best {best}", *images]
    return [f"step {step.index}", f"{mean}reward {reward}", *likely, *watched, calls]


def _describe_mean(scores: Tensor) -> str:
    """The mean of rewards, of those that meet all requirements where some do not."""
    met = [each for each in scores.tolist() if is_met(each)]
    return f"{sum(met) / len(met):.4g}" if met else "not met"


def _fit(words: Sequence[str], width: int) -> str:
    """As many words, from the first on, as fit into a width.

    Example:
        >>> _fit(["step 3", "reward 0.5", "best 0.7"], 20)
        'step 3  reward 0.5'
    """
    ends = itertools.accumulate((len(word) + 2 for word in words), initial=-2)
    return "  ".join(words[: max(1, sum(end <= width for end in ends) - 1)])


def describe_time_left(step: Step, budget: Budget) -> str:
    """What is left of a run's time, at its pace so far, or how long it took."""
    if _is_last(step):
        return f"done in {step.seconds:.0f} s"
    if step.next_noise is None and step.index == 0:
        return "few steps first"
    if not share_spent(step, budget):
        return ""
    left = [step.seconds / (step.index + 1) * (budget.steps - step.index)] if budget.steps is not None else []
    left += [budget.seconds - step.seconds] if budget.seconds is not None else []
    left += [step.seconds * (budget.nfe / step.nfe.cost - 1)] if budget.nfe is not None else []
    return f"{format_span(math.ceil(max(0.0, min(left))))} left"
