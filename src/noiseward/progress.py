"""A live progress bar as a consumer of steps: reward, P(z), denoiser calls and time left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from noiseward.budget import Budget, Status
from noiseward.optimize import Step

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["spent", "watch"]


def watch(steps: Iterable[Step], budget: Budget, *, console: Console | None = None) -> Iterator[Step]:
    """Pass steps on while a bar shows how far the budget is spent; one printed line per tenth where nobody looks.

    Arguments:
        steps: what `iterate` yields.
        budget: the same budget.
        console: where to draw; default: standard error.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = console or Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")]
    tenth = -1
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sampling", total=1.0, left="")
        for step in steps:
            part = spent(step, budget)
            bar.update(task, completed=part, description=_say(step), left=_left(step, part))
            if not console.is_terminal and int(part * 10) > tenth:
                tenth = int(part * 10)
                console.print(f"{_say(step)}  {_left(step, part)}", highlight=False, soft_wrap=True)
            yield step


def spent(step: Step, budget: Budget) -> float:
    """How much of the budget is spent, by whichever limit is nearest."""
    bills = [(step.index, budget.steps), (step.seconds, budget.seconds), (step.nfe.cost, budget.nfe)]
    parts = [used / limit if limit else 1.0 for used, limit in bills if limit is not None]
    return 1.0 if _last(step) else min(max(parts), 1.0)


def _last(step: Step) -> bool:
    """Whether no other follows: with few steps first, the step at the start does not move either (`nested.py`)."""
    return step.moved is None and Status.RUNNING not in step.status


def _say(step: Step) -> str:
    reward, best = step.evaluation.reward.mean().item(), step.best.reward.mean().item()
    least = step.probability.min().item()
    mean = "mean " if step.noise.shape[0] > 1 else ""
    panel = "".join(f"  {name} {held.mean().item():.3g}" for name, held in step.watched.items())
    spent = f"P(z) {least:.2g}  NFE {step.nfe.forward}"
    return f"step {step.index}  {mean}reward {reward:.4g}  best {best:.4g}{panel}  {spent}"


def _left(step: Step, part: float) -> str:
    if _last(step):
        return f"done in {step.seconds:.0f} s"
    if step.moved is None and step.index == 0:
        return "taking few steps first, unseen"
    return f"{math.ceil(step.seconds * (1 - part) / part)} s left" if part > 0 else ""
