"""`steps.jsonl`: one line per step, append-only, each tied to the one before (see `binding.py`).

A line that was written whole ends with a line break. What follows the last of them is what a process that died was
writing, and is no line yet.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from noiseward.errors import RunError
from noiseward.runs.binding import Bound, digest
from noiseward.runs.files import parse_json, read_bytes, replace_file
from noiseward.runs.schema import Record, check

__all__ = ["Line", "Log", "read_lines"]

SUM = ', "sum": "'


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the log.

    Attributes:
        record: the step, as `Step.record` gives it.
        bound: the digests that go with it; None in format 1.
        sum: over this line and all before it; empty in format 1.
        text: as it is written, without the line break.
    """

    record: dict[str, Any]
    bound: Bound | None
    sum: str
    text: str


def read_lines(path: Path, *, run: str | None, rows: int | None) -> list[Line]:
    """Every line that was written whole.

    Arguments:
        path: of the log.
        run: the id of the run; None in format 1.
        rows: of the run, if known.

    Raises:
        RunError: it cannot be read, or a line was changed, lost, repeated, reordered, or lacks something.
    """
    try:
        text = read_bytes(path).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or (error if isinstance(error, OSError) else "no text")
        raise RunError(f"{path} cannot be read ({reason}); restore it, or run again") from None
    *whole, rest = text.split("\n")
    found: list[Line] = []
    for number, one in enumerate([*whole, rest], start=1):
        torn, source = number > len(whole), f"{path}, line {number}"
        if torn and not one:
            break
        try:
            line = _line(one, run, found[-1].sum if found else run or "", source, rows)
        except RunError:
            if torn:
                break
            raise
        index, last = line.record["index"], found[-1].record["index"] if found else -1
        if index <= last or (not found and index != 0):
            expected = f"a step after {last}" if found else "step 0"
            raise RunError(f"{source}: expected {expected}, got step {index}; restore it, or run again")
        _same_names(line.record, found, source)
        found.append(line)
    return found


def _same_names(record: dict[str, Any], before: Sequence[Line], source: str) -> None:
    """A step has the terms of the first step, and the watched rewards of the first that was watched."""
    if record.get("watched") and not ("found" in record and "silent" in record):
        raise RunError(f"{source}: expected 'found' and 'silent' where 'watched' is, got nothing; restore it")
    for name in ("terms", "watched"):
        mine = record.get(name)
        known = mine and next((line.record[name] for line in before if line.record.get(name)), None)
        if mine and known and set(mine) != set(known):
            raise RunError(f"{source}: expected {', '.join(known)} in '{name}', as before; restore it, or run again")


def _line(text: str, run: str | None, before: str, source: str, rows: int | None) -> Line:
    try:
        record = parse_json(text)
    except ValueError:
        raise RunError(f"{source.replace(', line', ' is garbled in line')}; restore it, or run again") from None
    check(record, Record, source, rows=rows)
    if run is None:
        return Line(record, None, "", text)
    body, _, tail = text.rpartition(SUM)
    if tail != f'{digest(before, body)}"}}':
        raise RunError(
            f"{source} was changed, or does not follow the line before it (its checksum differs); restore the file, "
            "or run again"
        )
    del record["sum"]
    bound = record.pop("bound", None)
    check(bound, Bound, f"{source}, 'bound'")
    return Line(record, cast(Bound, bound), tail[:-2], text)


class Log:
    """The log of a run that is being written.

    Arguments:
        path: of the file.
        run: the id of the run; None in format 1.
        kept: lines to continue after; the first line that is added replaces the file by them and itself.
        was: the digests of the files the run is resumed from, in the order of `binding.FILES`; None for a new one.
    """

    def __init__(
        self, path: Path, *, run: str | None, kept: Sequence[Line] = (), was: Iterable[str | None] | None = None
    ) -> None:
        self.path, self.run = path, run
        self._kept: Sequence[Line] | None = kept
        self.was = None if was is None else tuple(was)
        self._sum = kept[-1].sum if kept else run or ""

    def add(self, record: dict[str, Any], bound: Bound | None) -> None:
        """Write a line.

        Raises:
            RunError: the disk is full, or the file cannot be written.
        """
        text = json.dumps(record)
        if bound is not None:
            whole = bound if self._kept is None or self.was is None else {**bound, "from": list(self.was)}
            body = json.dumps({**record, "bound": whole})[:-1]
            self._sum = digest(self._sum, body)
            text = f'{body}{SUM}{self._sum}"}}'
        if self._kept is not None:
            content = "".join(f"{one}\n" for one in (*(line.text for line in self._kept), text))
            replace_file(self.path, lambda path: path.write_text(content))
            self._kept = None
            return
        try:
            with open(self.path, "a") as file:
                file.write(f"{text}\n")
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}); free space or give another --out"
            ) from None
