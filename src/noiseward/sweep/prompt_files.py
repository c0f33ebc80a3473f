"""Prompt files, the one reader of them.

    .txt     one prompt per line; empty lines and lines that begin with # are skipped
    .jsonl   one object per line: {"prompt": "a duck", "id": "duck", "steps": 50}
    .csv     a header and one line per prompt, with the same names as columns; an empty cell sets nothing

Sets that come with the library are given by name instead of a path: `simple-animals`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.runs.text import read_text

__all__ = ["list_sets", "read_lines", "read_prompts"]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of spreadsheets, by country
KINDS = (".txt", ".jsonl", ".csv")
SETS = Path(__file__).resolve().parent / "sets"


def list_sets() -> dict[str, Path]:
    """The prompt sets that come with the library, by name."""
    return {path.stem: path for path in sorted(SETS.glob("*.txt"))}


def read_prompts(texts: Sequence[str]) -> tuple[str, ...]:
    """Prompts, and those in prompt files, each once.

    Raises:
        ArgumentError: an empty prompt, or a file that is malformed or has none.
    """
    found: list[str] = []
    for text in texts:
        path = Path(text)
        if path.suffix in KINDS or (os.path.exists(path) and not os.path.isdir(path)):
            lines = list(read_lines(path, kind=path.suffix if path.suffix in KINDS else ".txt"))
            if not lines:
                raise ArgumentError(f"{shorten(text, 300)} has no prompts; write one per line")
            for number, content in lines:
                if set(content) != {"prompt"} or not isinstance(content["prompt"], str):
                    raise ArgumentError(f"{path}, line {number}: expected a prompt alone, got {', '.join(content)}")
                found.append(content["prompt"])
        elif text.strip():
            found.append(text)
        else:
            raise ArgumentError("--prompts is empty; say what to draw, as in 'a duck', or give a prompt file")
    return tuple(dict.fromkeys(found))


def read_lines(
    path: Path, *, kind: str | None = None, check_column: Callable[[str], object] = str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each line that has a content.

    Arguments:
        path: of the file.
        kind: one of `.txt`, `.jsonl` and `.csv`; default: the suffix of the path.
        check_column: raises for an unknown name in a header.

    Raises:
        ArgumentError: the file is missing, of another kind, or malformed.
    """
    kind = path.suffix if kind is None else kind
    name = shorten(str(path), 300)
    if not os.path.lexists(path) and path.suffix not in KINDS:
        raise ArgumentError(
            f"unknown prompt file or set '{name}'; {choices(str(path)[:80], list(list_sets()))}, or a path"
        )
    if kind not in KINDS and os.path.isfile(path):
        raise ArgumentError(f"prompts must be in a .txt, .jsonl or .csv file, got {name}")
    text = read_text(path)
    if kind == ".csv":
        yield from _read_csv(path, text, check_column)
        return
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        if not line or (kind != ".jsonl" and line.startswith("#")):
            continue
        yield number, _read_json(line, f"{path}, line {number}") if kind == ".jsonl" else {"prompt": line}


def _read_json(line: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line, object_pairs_hook=lambda pairs: _as_dict(pairs, where))
    except ArgumentError:
        raise
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ArgumentError(f'{where}: expected JSON, as in {{"prompt": "a duck"}}, got other text ({why})') from None
    if not isinstance(content, dict):
        raise ArgumentError(f'{where}: expected a JSON object, as in {{"prompt": "a duck"}}, got {shorten(line, 40)}')
    return {key: value for key, value in content.items() if value is not None}


def _as_dict(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """An object whose names are each there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"{where}: '{shorten(twice, 60)}' is there twice; give it once")
    return found


def _read_csv(path: Path, text: str, check_column: Callable[[str], object]) -> Iterator[tuple[int, dict[str, Any]]]:
    header = text.lstrip("\r\n").partition("\n")[0]
    mark = next((mark for mark in SEPARATORS if mark in header), ",")  # names of columns hold none of them
    table = csv.reader(text.splitlines(keepends=True), strict=True, delimiter=mark)
    number, next_number = 1, 1
    try:
        header = [name.strip() for name in next(table, [])]
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise ArgumentError(f"{path}, line 1: column '{twice}' is there twice; give it once")
        for name in header:
            try:
                check_column(name)
            except ArgumentError as error:
                raise ArgumentError(f"{path}, line 1: {error}") from None
        next_number = table.line_num + 1
        for cells in table:
            number, next_number = next_number, table.line_num + 1  # a quoted cell may have several lines
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ArgumentError(
                    f"{path}, line {number}: expected {len(header)} cells, one per column, got {len(cells)}; quote "
                    f"cells that hold {SEPARATORS[mark]}"
                )
            yield number, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        where = f"{path}, line {next_number}"
        raise ArgumentError(f"{where}: expected CSV, got other text ({error}); quote cells that hold quotes") from None
