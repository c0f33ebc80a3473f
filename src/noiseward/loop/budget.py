"""When a run ends: a **budget** of moves, seconds, denoiser calls or reward; and why a row stopped.

No move is begun that would overrun the budget. What the next move costs is not known, so it is taken to cost what the
dearest one did, which counts half as much with every move after it: a move may be slow by accident, or the first moves
dearer than all others.
"""

from __future__ import annotations

import dataclasses
import enum

from noiseward.errors import ArgumentError
from noiseward.samplers.cost import NFE

__all__ = ["Budget", "Status", "update_pace"]


class Status(enum.Enum):
    """Why a row stopped, each with what to do about it."""

    RUNNING = "still moving"
    STEPS = "all steps were made: more steps may raise the reward further"
    SECONDS = "the time is up: more seconds may raise the reward further"
    NFE = "the denoiser calls are spent: more of them may raise the reward further"
    REWARD = "the wanted reward was reached"
    NONFINITE = "reward or noise became non-finite: the step was refused, the best before it kept; try a smaller lr"
    INTERRUPTED = "interrupted: the best so far was kept"
    MEMORY = "memory ran out: the best so far was kept; go on with less memory per step (memory=), or fewer rows"


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop: the first limit met.

    Arguments:
        steps: moves; N moves are N + 1 evaluations.
        seconds: wall time. No move is begun that would overrun it at the pace of late, with a third of a move kept for
            the closing evaluation: backpropagation costs at least twice its forward pass. The pace is that of the
            slowest move, which counts half as much with every move after it.
        nfe: denoiser calls, `NFE.cost`, in the same way. The first move is always made.
        reward: a row that reaches it stops moving.

    Example:
        >>> Budget(steps=-1)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: steps=-1 given: at least 0 wanted
    """

    steps: int | None = None
    seconds: float | None = None
    nfe: int | None = None
    reward: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seconds", "nfe"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ArgumentError(f"{name}={value} given: at least 0 wanted")
        if (self.steps, self.seconds, self.nfe) == (None, None, None):
            raise ArgumentError("no end given: set steps=, seconds= or nfe= (reward= alone may never be reached)")

    def spent(self, index: int, seconds: float, nfe: NFE, pace: tuple[float, int]) -> Status | None:
        """The reason not to make move number `index`, or None; `pace` is what a move costs (see `update_pace`)."""
        if self.steps is not None and index >= self.steps:
            return Status.STEPS
        if self.seconds is not None and seconds + pace[0] * 4 / 3 > self.seconds:
            return Status.SECONDS
        if self.nfe is not None and nfe.cost + pace[1] * 4 / 3 > self.nfe:
            return Status.NFE
        return None


def update_pace(pace: tuple[float, int], seconds: float, cost: int) -> tuple[float, int]:
    """The pace after a move of so many seconds and calls: the move's own, or half of what it was.

    Example:
        >>> update_pace((8.0, 300), 1.0, 60)
        (4.0, 150)
    """
    return max(pace[0] / 2, seconds), max(pace[1] // 2, cost)
