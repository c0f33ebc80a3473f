"""What a run was asked to do, as plain data: the command line's options, field by field."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from noiseward.align import BUILT_IN, DEFAULT_LR, Problem, default_budget, prepare, projections
from noiseward.ascend import GradientAscent

__all__ = ["RunSpec"]

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """The arguments of `align` that can be written down; they are explained there.

    Example:
        >>> RunSpec(prompt=("A duck!",), reward=("brightness",)).slug
        'a-duck-brightness'
    """

    prompt: tuple[str, ...]
    reward: tuple[str, ...]
    model: str = BUILT_IN
    steps: int | None = None
    seconds: float | None = None
    nfe: int | None = None
    target: float | None = None
    batch: int = 1
    seed: int = 0
    lr: float = DEFAULT_LR
    regularizer: str | None = None
    project: tuple[str, ...] = ()
    memory: str | None = None
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def problem(self) -> Problem:
        """Load the model and the rewards; raises before anything is written."""
        return prepare(
            self.model,
            list(self.prompt),
            list(self.reward),
            optimizer=GradientAscent(lr=self.lr, project=projections(self.project)),
            regularizer=self.regularizer,
            budget=default_budget(steps=self.steps, seconds=self.seconds, nfe=self.nfe, reward=self.target),
            batch=self.batch,
            seed=self.seed,
            memory=self.memory,
            call=self.call,
        )

    @property
    def slug(self) -> str:
        """A short name for a folder."""
        rewards = [text.rpartition(".py:")[2].split(":")[0] for text in self.reward]
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.prompt[0]} {' '.join(rewards)}".lower()).strip("-")
        return words[:60].strip("-") or "run"
