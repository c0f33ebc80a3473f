"""When a run ends: a **budget** of steps, seconds, denoiser calls or reward; and why a row stopped.

No step is begun that would overrun the budget. What the next step costs is not known, so it is expected to cost as much
as the most expensive recent one, which counts half as much with every step after it: a step may be slow by accident, or
the first steps more expensive than the others.
"""

from __future__ import annotations

import dataclasses
import enum

from noiseward.errors import ArgumentError
from noiseward.samplers.cost import NFE

__all__ = ["FINAL", "Budget", "Status", "update_pace"]


class Status(enum.Enum):
    """Why a row stopped, each with what to do about it.

    Example:
        >>> Status.REWARD.value
        'the target reward was reached'
    """

    RUNNING = "still running"
    STEPS = "all steps are done: more steps may raise the reward further"
    SECONDS = "the time is up: more seconds may raise the reward further"
    NFE = "the denoiser calls are spent: more of them may raise the reward further"
    REWARD = "the target reward was reached"
    SETTLED = "nothing more was gained among plausible images: more steps will hardly help, another seed may"
    PLATEAU = "the reward stopped rising: a larger budget will hardly help"
    HACKED = "likely reward hacking began: the best before it was kept"
    NONFINITE = "reward or noise became non-finite: the step was refused and the best before it kept; try a smaller lr"
    INTERRUPTED = "interrupted: the best so far was kept"
    COST = "what the judge may cost is spent: the best so far was kept; increase its max_calls= or max_cost="
    MEMORY = "out of memory: the best so far was kept; resume with less memory per step (memory=), or fewer rows"


FINAL = frozenset({Status.NONFINITE, Status.PLATEAU, Status.HACKED})  # a row that stopped so stays as it is


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop: at the first limit reached.

    Arguments:
        steps: optimization steps, at most; N steps are N + 1 evaluations. Without this limit, methods that can begin
            again elsewhere do so until the rest is spent.
        seconds: wall time. No step is begun that would overrun it at the recent pace, with a third of a step reserved
            for the closing evaluation: backpropagation costs at least twice its forward pass.
        nfe: denoiser calls, `NFE.cost`, in the same way. The first step is always made.
        reward: a row that reaches it stops.

    Example:
        >>> Budget(steps=-1)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: steps must be >= 0, got -1
    """

    steps: int | None = None
    seconds: float | None = None
    nfe: int | None = None
    reward: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seconds", "nfe"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ArgumentError(f"{name} must be >= 0, got {value}")
        if (self.steps, self.seconds, self.nfe) == (None, None, None):
            raise ArgumentError("expected a limit, got none; set steps, seconds or nfe (reward may never be reached)")

    def stop_reason(self, index: int, seconds: float, nfe: NFE, pace: tuple[float, int]) -> Status | None:
        """Why step number `index` must not begin, or None; `pace` is what a step costs (see `update_pace`)."""
        if self.steps is not None and index >= self.steps:
            return Status.STEPS
        if self.seconds is not None and seconds + pace[0] * 4 / 3 > self.seconds:
            return Status.SECONDS
        if self.nfe is not None and nfe.cost + pace[1] * 4 / 3 > self.nfe:
            return Status.NFE
        return None


def update_pace(pace: tuple[float, int], seconds: float, cost: int, *, warms_up: bool = False) -> tuple[float, int]:
    """The pace after a step of that many seconds and calls: the step's own, or half of the pace before.

    A step that warms up, as the first one of a compiled model, takes time that no other step takes: it is spent, and
    says nothing about the next.

    Example:
        >>> update_pace((8.0, 300), 1.0, 60)
        (4.0, 150)
    """
    return pace[0] if warms_up else max(pace[0] / 2, seconds), max(pace[1] // 2, cost)
