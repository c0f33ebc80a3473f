"""How much more a run is asked for: in total, or in addition to what is done."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from typing import Self

from noiseward.errors import ArgumentError, RunError
from noiseward.loop.budget import Budget, Status
from noiseward.options.run import RunSpec
from noiseward.runs.resume_point import ResumePoint
from noiseward.runs.spec import set_limits
from noiseward.runs.store import RunFolder
from noiseward.samplers.cost import NFE

__all__ = ["Spent", "check_more", "extend"]

_OVER = {Status.SECONDS: "seconds", Status.NFE: "nfe"}


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a run has spent, in the units of its budget.

    Attributes:
        steps: the number of its last step.
        seconds: wall time.
        nfe: denoiser calls of a row, a backward counting 2.
        has_ended: whether it was closed; one that was killed after its last step has its closing files to write.
    """

    steps: int = 0
    seconds: float = 0.0
    nfe: int = 0
    has_ended: bool = True

    @classmethod
    def read(cls, folder: RunFolder) -> Self:
        """What the log of a run says.

        Raises:
            RunError: the log is garbled, was changed, or belongs to another run.
        """
        steps = folder.steps() if os.path.lexists(folder.path / "steps.jsonl") else []
        if not steps:
            return cls()
        last, has_ended = steps[-1], False
        with contextlib.suppress(RunError):  # killed before it was written
            has_ended = folder.read("status.json")["state"] == "done"
        return cls(last["index"], last["seconds"], NFE(**last["nfe"]).cost, has_ended)

    def describe(self, name: str) -> str:
        """What is spent of one of them, and how to ask for more."""
        if name == "steps":
            return f"{self.steps:,} steps are done already; give more, as --steps +5"
        if name == "seconds":
            return f"{self.seconds:.1f} seconds are spent already; give more, as --seconds +60"
        return f"{self.nfe:,} denoiser calls are spent already; give more, as --nfe +500"


def extend(
    spec: RunSpec, done: Spent, *, steps: str | None = None, seconds: str | None = None, nfe: str | None = None
) -> RunSpec:
    """Extend the budget of a spec: to `50` in total, or to `50` more than is done.

    Raises:
        ArgumentError: a limit is no number, or does not exceed what is done.

    Example:
        >>> spec = RunSpec(prompt=("a",), reward=("brightness",), steps=4000)
        >>> extend(spec, Spent(steps=26), steps="+2").steps
        28
        >>> extend(spec, Spent(steps=26), steps="5")
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: 26 steps are done already; give more, as --steps +5
    """
    asked: dict[str, float | None] = {}
    for name, text, kind in (("steps", steps, int), ("seconds", seconds, float), ("nfe", nfe, int)):
        if text is None:
            continue
        if not re.fullmatch(r"\+?[0-9]+(\.[0-9]+)?", text) or (kind is int and "." in text):
            raise ArgumentError(f"--{name} must be a number in total, as 50, or in addition, as +20, got '{text}'")
        before = getattr(done, name)
        limit = kind(text) + (before if text.startswith("+") else 0)
        if before and (limit < before or (limit == before and done.has_ended)):
            raise ArgumentError(done.describe(name))
        asked[name] = limit
    return set_limits(spec).replace(**asked)


def check_more(stood: ResumePoint, done: Spent, budget: Budget) -> None:
    """Raise `ArgumentError` where a run has ended, and a budget is not enough for another step."""
    at = stood.place
    over = budget.stop_reason(at.index, at.seconds, at.nfe, at.pace)
    if over in _OVER and at.index <= done.steps:  # its last step would be evaluated again, and nothing else
        name = _OVER[over]
        limit, pace = (budget.seconds, at.pace[0]) if name == "seconds" else (budget.nfe, at.pace[1])
        needs = f"--{name} {limit:g} is not enough for another step, which takes about {round(pace, 2):,}"
        raise ArgumentError(f"{needs}; {done.describe(name)}")
