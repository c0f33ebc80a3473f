"""What a comparison was asked to do, as plain data, and how it is cut into packs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RunError
from noiseward.methods import DEFAULT_METHODS, METHODS, read_method
from noiseward.options.run import DEFAULT_MODEL, FORMAT, Memory
from noiseward.options.storable import check_storable
from noiseward.runs.binding import identify, seal, unseal
from noiseward.runs.files import read_json
from noiseward.runs.schema import check
from noiseward.runs.spec import check_format
from noiseward.runs.text import read_text

__all__ = ["SHARES", "CompareSpec", "Pack", "prompts"]

SHARES = (0.25, 0.5, 1.0)  # of the budget: where results are read off
PACK = 4  # rows per pack
KINDS = ("nfe", "seconds")
ROWS = 1_000_000  # of all methods: more than weeks of work, and still a list that fits


@dataclasses.dataclass(frozen=True)
class Pack:
    """Some rows of one method and prompt, run in one batch: always the same ones, whoever runs them.

    Arguments:
        method: as `methods.named` reads it.
        prompt: its number; the prompt itself is in the spec.
        seeds: one per row, in succession.
    """

    method: str
    prompt: int
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its file's name."""
        method = re.sub(r"[^a-z0-9.]+", "-", self.method.lower()).strip("-")
        return f"{method}-p{self.prompt}-s{self.seeds[0]}"


@dataclasses.dataclass(frozen=True)
class CompareSpec:
    """The arguments of `noiseward compare`.

    Arguments:
        reward: what is climbed.
        prompts: each is run with every seed; none for a model without prompts.
        methods: names, with arguments where wanted.
        kind: `nfe` (denoiser calls, a backward counting 2, of each row) or `seconds` (wall time of a pack).
        amount: how many.
        seeds: how many seeds per prompt.
        seed: the first.
        watch: held-out rewards; None for the model's usual ones.
        model, memory, scheduler, lora, dtype, device, call: as for `align`.

    Raises:
        ArgumentError: a method that is not known or named twice, a budget or a number of seeds that is not positive.

    Example:
        >>> spec = CompareSpec(("brightness",), ("a duck",), ("dno", "reno"), "nfe", 100, seeds=5)
        >>> [(pack.name, len(pack.seeds)) for pack in spec.packs()]
        [('dno-p0-s0', 4), ('reno-p0-s0', 4), ('dno-p0-s4', 1), ('reno-p0-s4', 1)]
    """

    reward: tuple[str, ...]
    prompts: tuple[str, ...]
    methods: tuple[str, ...] = DEFAULT_METHODS
    kind: str = "nfe"
    amount: float = 2000
    seeds: int = 4
    seed: int = 0
    watch: tuple[str, ...] | None = None
    model: str = DEFAULT_MODEL
    memory: Memory | None = None
    scheduler: str | None = None
    lora: str | None = None
    dtype: str | None = None
    device: str | None = None
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_storable({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        if any(not prompt.strip() for prompt in self.prompts):
            raise ArgumentError("expected prompts with words, got an empty one: say what to draw, as in 'a duck'")
        if not self.methods:
            raise ArgumentError(f"no method given: choose from {', '.join(METHODS)}")
        if len(set(self.methods)) < len(self.methods):
            raise ArgumentError(f"a method is named twice in {', '.join(self.methods)}: name each once")
        for method in self.methods:
            read_method(method)
        if self.kind not in KINDS or not 0 < self.amount < math.inf:
            raise ArgumentError(f"budget {self.kind}={self.amount:g} given: nfe=2000 or seconds=60, say")
        if self.seeds < 1:
            raise ArgumentError(f"seeds={self.seeds} given: at least 1 wanted")
        rows = max(1, len(self.prompts)) * self.seeds * len(self.methods)
        if rows > ROWS:
            raise ArgumentError(
                f"a comparison has at most {ROWS:,} rows, got {rows:,}, {len(self.prompts)} prompts times {self.seeds} "
                f"seeds times {len(self.methods)} methods: take fewer"
            )

    def budget(self) -> dict[str, Any]:
        """What each pack may spend, as options."""
        return {"nfe": round(self.amount)} if self.kind == "nfe" else {"seconds": self.amount}

    @property
    def loading(self) -> dict[str, str]:
        """How the model is loaded, as options."""
        return {name: value for name in ("scheduler", "lora", "dtype", "device") if (value := getattr(self, name))}

    def packs(self) -> list[Pack]:
        """All of the work, ordered so that methods grow together: stopped anywhere, they have had about as much."""
        last = self.seed + self.seeds
        return [
            Pack(method, prompt, tuple(range(first, min(first + PACK, last))))
            for first in range(self.seed, last, PACK)
            for prompt in range(max(1, len(self.prompts)))
            for method in self.methods
        ]

    @property
    def run(self) -> str | None:
        """The id of the comparison, as for runs; None in format 1."""
        return None if self.format < 2 else identify(dataclasses.asdict(self))

    def text(self) -> str:
        """The spec as it is written into a file."""
        content = dataclasses.asdict(self)
        if self.format > 1:
            return json.dumps(seal(content), indent=1)
        return json.dumps({name: value for name, value in content.items() if name != "format"}, indent=1)

    @classmethod
    def read(cls, path: Path) -> CompareSpec:
        """The spec in a file.

        Raises:
            RunError: it is garbled, was changed, or is of a newer format.
        """
        content = read_json(path)
        given = {"format": 1, **{name: value for name, value in content.items() if name != "sum"}}
        check_format(given, path)
        hints = typing.get_type_hints(cls)
        if unknown := sorted(set(given) - set(hints)):
            raise RunError(f"{path} has unknown {', '.join(unknown)[:80]}: give another --out")
        for name, value in given.items():
            check({name: value}, dict[str, hints[name]], path)
        if given["format"] > 1:
            unseal(content, path)
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        try:
            return cls(**lists)
        except (TypeError, ArgumentError) as error:
            raise RunError(f"{path} cannot be read ({error}): give another --out") from None


def prompts(texts: Sequence[str]) -> tuple[str, ...]:
    """Prompts, and those in files of one prompt per line.

    Raises:
        ArgumentError: a file without any.
    """
    found: list[str] = []
    for text in texts:
        path = Path(text)
        if path.suffix == ".txt" or (os.path.exists(path) and not os.path.isdir(path)):
            lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            if not lines:
                raise ArgumentError(f"prompts '{text}' given: the file has no line with a prompt")
            found += lines
        elif not text.strip():
            raise ArgumentError("--prompts is empty: say what to draw, as in 'a duck', or give a text file")
        else:
            found.append(text)
    return tuple(dict.fromkeys(found))
