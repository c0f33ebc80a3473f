"""What a run was asked to do, as plain data: the command line's options, field by field."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiseward.api import Problem, default_budget, prepare
from noiseward.choose import DEFAULT_LR
from noiseward.errors import RunError
from noiseward.parts import Parts
from noiseward.pipelines.cards import DEFAULT_MODEL
from noiseward.runs.binding import identity, seal, unseal
from noiseward.runs.files import read_json
from noiseward.runs.schema import check
from noiseward.runs.storable import check_storable

__all__ = ["FORMAT", "RunSpec", "readable"]

FORMAT = 2  # 1 is without ids and checksums (see binding.py)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """The arguments of `align` that can be written down; they are explained there.

    Raises:
        ArgumentError: a value that a file of JSON cannot hold.

    Example:
        >>> RunSpec(prompt=("A duck!",), reward=("brightness",)).slug
        'a-duck-brightness'
    """

    prompt: tuple[str, ...]
    reward: tuple[str, ...]
    model: str = DEFAULT_MODEL
    steps: int | None = None
    seconds: float | None = None
    nfe: int | None = None
    target: float | None = None
    batch: int = 1
    seed: int = 0
    lr: float = DEFAULT_LR
    estimator: str | None = None
    search: str | None = None
    best_of: int | None = None
    regularizer: str | None = None
    project: tuple[str, ...] = ()
    watch: tuple[str, ...] | None = None
    watch_every: int = 1
    coarse: int | None = None
    memory: str | None = None
    scheduler: str | None = None
    lora: str | None = None
    dtype: str | None = None
    device: str | None = None
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_storable({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def problem(self, parts: Parts | None = None) -> Problem:
        """Load the model and the rewards, but for those that are among `parts`; raises before anything is written."""
        return prepare(
            self.model,
            list(self.prompt) or None,
            list(self.reward),
            optimizer=self.search,
            best_of=self.best_of,
            estimator=self.estimator,
            lr=self.lr,
            project=self.project,
            regularizer=self.regularizer,
            budget=default_budget(steps=self.steps, seconds=self.seconds, nfe=self.nfe, reward=self.target),
            watch=self.watch,
            watch_every=self.watch_every,
            batch=self.batch,
            seed=self.seed,
            coarse=self.coarse,
            memory=self.memory,
            loading={name: getattr(self, name) for name in ("scheduler", "lora", "dtype", "device")},
            call=self.call,
            parts=parts,
        )

    def resolved(self) -> RunSpec:
        """The spec with the default budget written out."""
        budget = default_budget(steps=self.steps, seconds=self.seconds, nfe=self.nfe)
        return dataclasses.replace(self, steps=budget.steps)

    @property
    def run(self) -> str | None:
        """The id of the run that this asks for (see `binding.py`); None in format 1."""
        return None if self.format < 2 else identity(dataclasses.asdict(self))

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return max(1, len(self.prompt)) * self.batch

    def answers(self, asked: RunSpec) -> bool:
        """Whether a run of this spec is what another asks for, its budget and what that leaves open aside."""
        same = dataclasses.replace(asked, search=asked.search or self.search)
        return identity(dataclasses.asdict(same)) == identity(dataclasses.asdict(self))

    def text(self) -> str:
        """The spec as it is written into a file."""
        content = dataclasses.asdict(self)
        return json.dumps(content if self.format < 2 else seal(content), indent=2)

    @classmethod
    def read(cls, path: Path) -> RunSpec:
        """The spec in a file.

        Raises:
            RunError: it is garbled, was changed, or is of a newer format.
        """
        content = read_json(path)
        readable(content, path)
        asked = {name: value for name, value in content.items() if name != "sum"}
        spec = cls.of(asked, path)
        if spec.format > 1:
            unseal(content, path)
        return spec

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path) -> RunSpec:
        """The spec that some plain data of a file is.

        Raises:
            RunError: as `read`.
        """
        readable(content, path)
        hints = typing.get_type_hints(cls)
        unknown, missing = set(content) - set(hints), {"prompt", "reward"} - set(content)
        if unknown or missing:
            what = f"unknown {', '.join(sorted(unknown))}" if unknown else f"no {' and no '.join(sorted(missing))}"
            raise RunError(f"{path} has {what}: restore it, or run again")
        for name, value in content.items():
            check({name: value}, dict[str, hints[name]], path)
        if content.get("batch", 1) < 1:
            raise RunError(f"{path}: expected a batch of at least 1, got {content['batch']}; restore it, or run again")
        plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
        return cls(**plain)

    @property
    def slug(self) -> str:
        """A short name for a folder."""
        rewards = [text.rpartition(".py:")[2].split(":")[0] for text in self.reward]
        words = re.sub(r"[^a-z0-9]+", "-", f"{' '.join(self.prompt[:1])} {' '.join(rewards)}".lower()).strip("-")
        return words[:60].strip("-") or "run"


def readable(content: Mapping[str, Any], path: Path) -> None:
    """Raise `RunError` unless the content of a file is of a format that this version reads."""
    written = content.get("format")
    if not isinstance(written, int) or isinstance(written, bool) or not 1 <= written <= FORMAT:
        raise RunError(f"{path} has format {str(written)[:20]}, this version reads up to {FORMAT}: update noiseward")
