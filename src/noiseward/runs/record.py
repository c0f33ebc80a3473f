"""A run as its files record it, in numbers: the spec, the status and the log, which must fit each other.

They may be read while the run is being written: the status is read first, and the log may be ahead of it. What is in
tensors is read by `consistency.py`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from noiseward.errors import RunError
from noiseward.options.run import RunSpec
from noiseward.runs.log import Line
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder

__all__ = ["AGAIN", "RunRecord", "is_near", "read_record", "tolerance"]

AGAIN = "restore it, or run again"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run as its files record it."""

    spec: RunSpec
    status: dict[str, Any]
    lines: list[Line]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The records of its steps."""
        return [line.record for line in self.lines]


def read_record(folder: RunFolder) -> RunRecord:
    """Read the spec, the status and the log of a run.

    Raises:
        RunError: a file is missing or garbled, was changed, or does not fit the others.
    """
    spec, status = folder.spec(), folder.read("status.json")
    path = folder.path / "status.json"
    lines = folder.lines() if "step" in status or os.path.exists(folder.path / "steps.jsonl") else []
    if "step" not in status:
        if status["state"] != "failed":
            raise RunError(f"{path}: expected a whole number for 'step', got nothing; {AGAIN}")
        return RunRecord(spec, status, lines)
    for name in ("seconds", "best", "found", "rows"):
        if name not in status:
            raise RunError(f"{path}: expected an entry '{name}', got nothing; {AGAIN}")
    if len(status["rows"]) != spec.rows:
        raise RunError(f"{path}: expected the status of {spec.rows} rows, got {len(status['rows'])}; {AGAIN}")
    by_index = {line.record["index"]: line.record for line in lines}
    last = max(by_index, default=-1)
    final = status["state"] in ("done", "interrupted")
    if status["step"] > last or (final and status["step"] < last):
        raise RunError(
            f"{path} says step {status['step']} is the last, and steps.jsonl ends with step {last}; restore what was "
            f"changed, or 'noiseward resume {folder.path}'"
        )
    apart = tolerance(folder, spec)
    for row, (best, found) in enumerate(zip(status["best"], status["found"], strict=True)):
        if found not in by_index:
            raise RunError(f"{path}: step {found}, the best of row {row}, is not in steps.jsonl; {AGAIN}")
        if not is_near(best, by_index[found]["reward"][row], apart):
            raise RunError(f"{path}: the best of row {row} is not the reward of its step in steps.jsonl; {AGAIN}")
    return RunRecord(spec, status, lines)


def tolerance(folder: RunFolder, spec: RunSpec) -> float:
    """How far apart numbers of one evaluation may be in two files of a run.

    A resumed run evaluates its last step again, which may round differently, on a GPU above all. Where there are
    checksums, numbers are not compared.
    """
    if run_id(spec) is not None:
        return math.inf
    try:
        return 1e-4 if folder.read("env.json").get("device") == "cpu" else 0.02
    except RunError:
        return 0.02


def is_near(one: float, other: float, apart: float) -> bool:
    """Whether two numbers may be the same; a reward that was never finite is -inf among the best."""
    if apart == math.inf:
        return True
    if not math.isfinite(other):
        return not math.isfinite(one)
    return math.isclose(one, other, rel_tol=apart, abs_tol=apart / 10)
