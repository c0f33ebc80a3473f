"""Prompt files: what a batch is asked, line by line.

    .txt     one prompt per line; empty lines and lines that begin with # are left out
    .jsonl   one object per line: {"prompt": "a duck", "id": "duck", "steps": 50}
    .csv     a header and one line per prompt, with the same names as columns; an empty cell says nothing

In addition to `prompt` and `id`, a line may set any option of a run (`options/run.py`) for itself: `reward`, `steps`,
`method`, `seed`, `num_inference_steps`, ...; `seeds`, how many; and other arguments of the pipeline as `call.NAME`. A
list stands in a JSON list, or in a text with `;` between its parts. Anything else in a line is an error that names the
line, before anything is run.

Sets that come with the library are named instead of a path: `simple-animals`.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.methods import read_method
from noiseward.options.parts import literal
from noiseward.options.replaced import REPLACED, renamed
from noiseward.options.run import RunSpec
from noiseward.options.storable import check_storable
from noiseward.runs.spec import set_limits
from noiseward.runs.text import read_text

__all__ = ["Row", "read", "sets"]

OPTIONS = tuple(name for name in RunSpec.names() if name not in ("prompt", "batch", "call"))
COLUMNS = ("prompt", "id", "seeds", *OPTIONS)
LISTS = ("reward", "watch")
LIMITS = ("steps", "seconds", "nfe")
ROWS = 1_000_000  # of a batch at most
LONGEST = 65_536  # characters of a prompt
SETS = Path(__file__).resolve().parent / "sets"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a prompt file.

    Attributes:
        id: its name, unique in the file.
        spec: what to do: one prompt, with `spec.batch` seeds from `spec.seed` on.
        line: where it stands, from 1.
    """

    id: str
    spec: RunSpec
    line: int


def sets() -> dict[str, Path]:
    """The prompt sets that come with the library, by name.

    Example:
        >>> len(read("simple-animals", RunSpec(prompt=(), reward=("brightness",))))
        45
    """
    return {path.stem: path for path in sorted(SETS.glob("*.txt"))}


def read(source: str | Path, base: RunSpec, *, template: str = "{}") -> list[Row]:
    """The rows of a prompt file, or of a named set.

    Arguments:
        source: a path, or the name of a set.
        base: what to do where a line says nothing else.
        template: what becomes of a prompt, such as `a {} on a black background`.

    Raises:
        ArgumentError: no such file or set, or a line that is malformed, of an unknown column, or of an id given before.
    """
    path = sets().get(str(source)) or Path(source)
    if "{}" not in template:
        raise ArgumentError(
            f"template '{shorten(template, 80)}' given: it wants a {{}} where the prompt goes, as in 'a {{}}'"
        )
    rows: list[Row] = []
    ids = _Ids()
    count = 0
    for number, content in _contents(path):
        where = f"{path}, line {number}"
        try:
            row = _row(content, base, template, number, where, ids)
        except ArgumentError as error:
            told = str(error)
            raise ArgumentError(told if told.startswith(where) else f"{where}: {told}") from None
        rows.append(row)
        count += row.spec.batch
        if count > ROWS:
            raise ArgumentError(
                f"{where}: a batch has at most {ROWS:,} rows, prompts times seeds, got {_count(count)} up to here: "
                "take fewer seeds, or split the file"
            )
    if not rows:
        raise ArgumentError(f"{path} has no prompts: one per line wanted")
    return rows


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "more than 10^15"


def _contents(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the content of each line that says something."""
    if not os.path.exists(path):
        known = list(sets())
        said = shorten(str(path), 300)
        raise ArgumentError(f"unknown prompt file or set '{said}'; {choices(str(path)[:80], known)}, or a path")
    if path.suffix not in (".txt", ".jsonl", ".csv") and os.path.isfile(path):
        raise ArgumentError(f"{shorten(str(path), 300)} given: prompts in a .txt, .jsonl or .csv file wanted")
    text = read_text(path)
    if path.suffix == ".csv":
        yield from _cells(path, text)
        return
    for number, written in enumerate(text.split("\n"), start=1):
        written = written.strip()
        if not written or (path.suffix == ".txt" and written.startswith("#")):
            continue
        if path.suffix == ".txt":
            yield number, {"prompt": written}
            continue
        try:
            content = json.loads(written)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ArgumentError(f'{path}, line {number}: no JSON ({why}): {{"prompt": "a duck"}} wanted') from None
        if not isinstance(content, dict):
            raise ArgumentError(f'{path}, line {number}: no JSON object: {{"prompt": "a duck"}} wanted')
        yield number, {key: value for key, value in content.items() if value is not None}


def _cells(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.reader(text.splitlines(keepends=True), strict=True)
    begun = 1
    try:
        header = [name.strip() for name in next(table, [])]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise ArgumentError(f"{path}, line 1: column '{twice}' stands there twice: once wanted")
        for name in header:
            _known(name, f"{path}, line 1")
        begun = table.line_num + 1
        for cells in table:
            number, begun = begun, table.line_num + 1  # a quoted cell may go over several lines
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ArgumentError(
                    f"{path}, line {number}: {len(cells)} cells for {len(header)} columns: quote cells that hold commas"
                )
            yield number, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        raise ArgumentError(f"{path}, line {begun}: no CSV ({error}): quote cells that hold quotes or commas") from None


def _known(name: str, where: str) -> None:
    if name in REPLACED:
        raise ArgumentError(f"{where}: column {renamed(name)}")
    if name not in COLUMNS and not re.fullmatch(r"call\.[A-Za-z_]\w*", name):
        raise ArgumentError(f"{where}: unknown column '{name}'; {choices(name, [*COLUMNS, 'call.NAME'])}")


def _row(content: Mapping[str, Any], base: RunSpec, template: str, number: int, where: str, ids: _Ids) -> Row:
    check_storable(content)
    for name in content:
        _known(name, where)
    prompt = content.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ArgumentError(f"{where}: expected a prompt, got none; say what to draw, as in 'a duck'")
    whole = template.replace("{}", prompt.strip()) if len(template) * len(prompt) <= LONGEST**2 else None
    if whole is None or len(whole) > LONGEST:
        raise ArgumentError(f"{where}: a prompt has at most {LONGEST:,} characters, with its template; shorten it")
    if "target" not in content and base.target is not None and "reward" in content:
        raise ArgumentError(f"{where}: a reward of its own needs a target of its own, --target is for another reward")
    own = {name: _parts(value) if name in LISTS else value for name, value in content.items() if name in OPTIONS}
    call = {
        name.removeprefix("call."): literal(value) if isinstance(value, str) else value
        for name, value in content.items()
        if name.startswith("call.")
    }
    ends = dict.fromkeys(LIMITS) if set(LIMITS) & set(own) else {}
    values = {**base.values(), **ends, **own, "prompt": (whole,), "call": {**base.call, **call}}
    values["batch"] = content.get("seeds", base.batch)
    spec = RunSpec.read(values, spell=lambda name: "column 'seeds'" if name == "batch" else f"column '{name}'")
    if "method" in own and spec.method is not None:
        read_method(spec.method)
    return Row(ids.of(content.get("id"), prompt, number, where), set_limits(spec), number)


def _parts(value: Any) -> Any:
    """The parts of a list that is written as a text."""
    return [part.strip() for part in value.split(";")] if isinstance(value, str) else value


class _Ids:
    """The ids of the lines so far: their own, or their prompt as a short word, numbered where that is taken."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._next: dict[str, int] = {}  # by word, the number to go on with: many lines may hold the same prompt

    def of(self, given: Any, prompt: str, number: int, where: str) -> str:
        """The id of a line."""
        name = self._free(prompt) if given is None else str(given)
        if given is not None and (not re.fullmatch(r"[\w.-]{1,80}", name) or name.startswith(".")):
            said = shorten(name, 80)
            raise ArgumentError(f"{where}: id '{said}' given: letters, digits, '-', '_' and '.' wanted, 80 at most")
        if name in self._lines:
            raise ArgumentError(f"{where}: id '{name}' is that of line {self._lines[name]} too: give each its own")
        self._lines[name] = number
        return name

    def _free(self, prompt: str) -> str:
        word = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:60] or "row"
        number = self._next.get(word, 1)
        while (name := word if number == 1 else f"{word}-{number}") in self._lines:
            number += 1
        self._next[word] = number + 1
        return name
