"""All numbers of runs as CSV; images are exported by `export.py`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import RunError
from noiseward.runs.files import check_target, replace_file
from noiseward.runs.record import read_record
from noiseward.runs.store import RunFolder

__all__ = ["write_table", "write_tables"]

CALLS = ("forward", "backward", "recomputed")
NUMBERS = ("reward", "penalty", "value", "probability", "grad_norm", "strict", "image", "found")


def write_table(folder: RunFolder, path: Path) -> Path:
    """Write every number of every step and row of a run, one line each, as CSV."""
    return _write({"": folder}, path)


def write_tables(folders: Mapping[str, RunFolder], path: Path) -> Path:
    """Write the same of several runs into one table, whose first column `run` has their names."""
    return _write(folders, path, first=("run",))


def _write(folders: Mapping[str, RunFolder], path: Path, *, first: tuple[str, ...] = ()) -> Path:
    check_target(path)
    lines = [{"run": name, **line} for name, folder in folders.items() for line in _lines(folder)]
    known = (*first, "step", "row", "seconds", *(f"nfe_{name}" for name in CALLS), *NUMBERS)
    terms = dict.fromkeys(key for line in lines for key in line if key not in ("run", *known))

    def write(beside: Path) -> None:
        with open(beside, "w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, [*known, *terms], extrasaction="ignore")
            out.writeheader()
            out.writerows(lines)

    replace_file(path, write)
    return path


def _lines(folder: RunFolder) -> Iterator[dict[str, Any]]:
    steps = read_record(folder).steps
    if not steps:
        raise RunError(f"{folder.path} has no steps yet")
    for step in steps:
        whole = {"step": step["index"], "seconds": step["seconds"]}
        whole |= {f"nfe_{name}": step["nfe"][name] for name in CALLS}
        for row in range(len(step["reward"])):
            numbers = {name: "" if (values := step.get(name)) is None else values[row] for name in NUMBERS}
            terms = {name: values[row] for name, values in step["terms"].items() if name not in NUMBERS}
            watched = {f"watched {name}": values[row] for name, values in step.get("watched", {}).items()}
            yield {**whole, "row": row, **numbers, **terms, **watched}
