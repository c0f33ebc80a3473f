"""Rows: what a sweep is asked, line by line of a prompt file (`prompt_files.py`).

In addition to `prompt` and `id`, a line may set any option of a run (`options/run.py`) for itself: `reward`, `steps`,
`method`, `seed`, `num_inference_steps`, ...; `seeds`, how many; and other arguments of the pipeline as `call.NAME`. A
list is written as a JSON list, or as text with `;` between its parts. Anything else in a line is an error that names
the line, before anything runs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.options.parts import literal
from noiseward.options.replaced import REPLACED, renamed
from noiseward.options.run import RunSpec, lift_call
from noiseward.options.slug import spell_emoji
from noiseward.options.storable import check_storable
from noiseward.rewards.names import check_requirement, check_reward
from noiseward.runs.spec import set_limits
from noiseward.sweep.prompt_files import list_sets, read_lines

__all__ = ["ROWS", "Row", "UniqueIds", "check_count", "check_inputs", "check_names", "read_rows"]

OPTIONS = tuple(name for name in RunSpec.names() if name not in ("prompt", "batch", "call"))
COLUMNS = ("prompt", "id", "seeds", *OPTIONS)
LISTS = ("reward", "watch", "require", "stop_when")
ROWS = 1_000_000  # of a sweep at most
LONGEST = 65_536  # characters of a prompt


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a prompt file, or one case of a comparison.

    Attributes:
        id: its name; unique for each seed.
        spec: what to run: one prompt at most, with `spec.batch` seeds from `spec.seed` on.
        line: its number in the file, from 1.
        invented: whether the id follows from the prompt, and a number where prompts give the same.
    """

    id: str
    spec: RunSpec
    line: int = 0
    invented: bool = False


def read_rows(source: str | Path, base: RunSpec, *, template: str = "{}") -> list[Row]:
    """The rows of a prompt file, or of a set by its name.

    Arguments:
        source: a path, or the name of a set.
        base: options that a line does not set.
        template: text around each prompt, such as `a {} on a black background`.

    Raises:
        ArgumentError: no such file or set, or a line that is malformed, has an unknown column, or repeats an id.

    Example:
        >>> len(read_rows("simple-animals", RunSpec(prompt=(), reward=("brightness",))))
        45
    """
    path = list_sets().get(str(source)) or Path(source)
    if "{}" not in template:
        raise ArgumentError(
            f"--template must have {{}} where the prompt goes, as in 'a {{}}', got '{shorten(template, 80)}'"
        )
    check_names(base)
    rows: list[Row] = []
    ids = UniqueIds()
    count = 0
    for number, content in read_lines(path, check_column=_check_column):
        where = f"{path}, line {number}"
        try:
            for name in content:
                _check_column(name)
            rows.append(_read_row(content, base, template, number, ids))
        except ArgumentError as error:
            raise ArgumentError(f"{where}: {error}") from None
        count += rows[-1].spec.batch
        check_count(count, f"{where}: ")
    if not rows:
        raise ArgumentError(f"{path} has no prompts; write one per line")
    return rows


def check_count(count: int, where: str = "") -> None:
    """Raise `ArgumentError` if a sweep would have too many rows."""
    if count > ROWS:
        number = f"{count:,}" if count < 10**15 else "more than 10^15"
        raise ArgumentError(
            f"{where}a sweep has at most {ROWS:,} rows, prompts times seeds, got {number}; take fewer, or split it"
        )


def check_inputs(rows: Sequence[Row]) -> None:
    """Raise `ArgumentError` if an image that rows are given is no file; a sweep that was begun has copies."""
    from noiseward.runs.inputs import list_inputs

    known: set[Path] = set()
    for row in rows:
        for name, path in list_inputs(row.spec).items():
            if path not in known and not os.path.isfile(path):
                where = f"line {row.line}: " if row.line else ""
                argument = re.split(r"[-.]", name)[0]
                what = "noise" if argument == "start" else "an image"
                raise ArgumentError(f"{where}{argument}: expected the path of {what}, got '{path}'; check the path")
            known.add(path)


def check_names(spec: RunSpec) -> None:
    """Raise `ArgumentError` if a spec names a method, a part of one or a reward that there is not."""
    _check_names(spec.method, (*spec.reward, *(spec.watch or ())), spec.require)


@functools.lru_cache
def _check_names(method: str | None, rewards: tuple[str, ...], required: tuple[str, ...]) -> None:
    if method is not None:
        from noiseward.methods import choose_method
        from noiseward.rewards.reward import FunctionReward

        choose_method(method, FunctionReward(len, differentiable=False))  # builds its parts
    for text in rewards:
        check_reward(text)
    for text in required:
        check_requirement(text)


def _check_column(name: str) -> None:
    if name in REPLACED:
        raise ArgumentError(f"column {renamed(name)}")
    if name not in COLUMNS and not re.fullmatch(r"call\.[A-Za-z_]\w*", name):
        raise ArgumentError(f"unknown column '{name}'; {choices(name, [*COLUMNS, 'call.NAME'])}")


def _read_row(content: Mapping[str, Any], base: RunSpec, template: str, number: int, ids: UniqueIds) -> Row:
    check_storable({name: value for name, value in content.items() if name not in OPTIONS})
    prompt = content.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        got = "none" if prompt is None else shorten(repr(prompt), 60)
        raise ArgumentError(f"expected a prompt, got {got}; say what to draw, as in 'a duck'")
    whole = template.replace("{}", prompt.strip()) if len(template) * len(prompt) <= LONGEST**2 else None
    if whole is None or len(whole) > LONGEST:
        raise ArgumentError(f"a prompt has at most {LONGEST:,} characters, with its template; shorten it")
    if "target" not in content and base.target is not None and "reward" in content:
        raise ArgumentError("a reward of its own needs a target of its own; --target is for another reward")
    own = {name: _split(value) if name in LISTS else value for name, value in content.items() if name in OPTIONS}
    call = {
        name.removeprefix("call."): literal(value) if isinstance(value, str) else value
        for name, value in content.items()
        if name.startswith("call.")
    }
    own = lift_call({**own, "call": call})
    values = {**base.values(), **own, "prompt": (whole,), "call": {**base.call, **own["call"]}}
    values["batch"] = content.get("seeds", base.batch)
    spec = RunSpec.read(values, spell=lambda name: "column 'seeds'" if name == "batch" else f"column '{name}'")
    check_names(spec)
    invented = content.get("id") is None
    name = ids.invent(prompt, number) if invented else ids.check(content["id"], number)
    return Row(name, set_limits(spec), number, invented)


def _split(value: Any) -> Any:
    """The parts of a list that is written as text."""
    return [part.strip() for part in value.split(";")] if isinstance(value, str) else value


class UniqueIds:
    """The ids of the lines so far: their own, or their prompt as a short word, numbered where that is taken."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._next: dict[str, int] = {}  # the next number to try, by word: many lines may have the same prompt

    def check(self, asked: Any, line: int) -> str:
        """The id that a line asks for.

        Raises:
            ArgumentError: it is malformed, or another line has it.
        """
        name = str(asked)
        if not re.fullmatch(r"[\w.-]{1,80}", name) or name.startswith("."):
            raise ArgumentError(f"id must be at most 80 letters, digits, '-', '_' or '.', got '{shorten(name, 80)}'")
        if name in self._lines:
            raise ArgumentError(f"id '{name}' is that of line {self._lines[name]} too; give each line its own")
        self._lines[name] = line
        return name

    def invent(self, prompt: str, line: int = 0) -> str:
        """A free id for a prompt.

        Example:
            >>> ids = UniqueIds()
            >>> ids.invent("A duck!"), ids.invent("a duck")
            ('a-duck', 'a-duck-2')
            >>> ids.invent("a \\N{FIRE}")
            'a-fire'
        """
        word = re.sub(r"[^\w]+", "-", spell_emoji(prompt).lower()).strip("-_")[:60] or "row"
        number = self._next.get(word, 1)
        while (name := word if number == 1 else f"{word}-{number}") in self._lines:
            number += 1
        self._next[word], self._lines[name] = number + 1, line
        return name
