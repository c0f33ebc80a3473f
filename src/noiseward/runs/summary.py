"""A run as plain data, for programs: what `--json` prints of it (`docs/scripting.md`)."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from noiseward.options.run import RunSpec
from noiseward.rewards.shortfall import find_gain, met_reward
from noiseward.runs.alive import describe_ending, find_state
from noiseward.runs.record import RunRecord, read_record
from noiseward.runs.store import RunFolder

__all__ = ["RowSummary", "RunSummary", "resume_command", "summarize_run"]


class RowSummary(TypedDict):
    """A row of a run; numbers that are not known or not finite are null, and so are rewards where requirements fail."""

    row: int
    prompt: str
    seed: int
    before: float | None
    best: float | None
    gain: float | None
    probability: float | None
    strict: float | None
    image: float | None
    step: int | None
    ended: str
    initial_file: str | None
    best_file: str | None


class RunSummary(TypedDict):
    """A run."""

    run: str
    state: str
    model: str
    method: str | None
    reward: list[str]
    prompt: list[str]
    steps: int | None
    seconds: float | None
    nfe: dict[str, int] | None
    error: str | None
    resume: str | None
    rows: list[RowSummary]


def summarize_run(folder: RunFolder) -> RunSummary:
    """Read a run.

    Raises:
        RunError: a file is missing or garbled, was changed, or does not fit the others.
    """
    record = read_record(folder)
    spec, status, steps = record.spec, record.status, record.steps
    state = find_state(status["state"], folder.path)
    return {
        "run": str(folder.path),
        "state": state,
        "model": spec.model,
        "method": spec.method,
        "reward": list(spec.reward),
        "prompt": list(spec.prompt),
        "steps": status.get("step"),
        "seconds": status.get("seconds"),
        "nfe": dict(steps[-1]["nfe"]) if steps else None,
        "error": status.get("error"),
        "resume": resume_command(folder.path) if state in ("killed", "interrupted", "failed") else None,
        "rows": [_row(folder.path, spec, record, row, state) for row in range(spec.rows)],
    }


def _row(path: Path, spec: RunSpec, record: RunRecord, row: int, state: str) -> RowSummary:
    status, steps = record.status, record.steps
    prompt, seed = (spec.prompt or ("",))[row // spec.batch], spec.seed + row % spec.batch
    before = met_reward(steps[0]["reward"][row]) if steps else None
    best = met_reward(status["best"][row]) if "best" in status else None
    found = status["found"][row] if "found" in status else None
    at_best = next((step for step in steps if step["index"] == found), {})
    files = {which: path / which / f"{row:02d}.png" for which in ("initial", "best")}
    return {
        "row": row,
        "prompt": prompt,
        "seed": seed,
        "before": before,
        "best": best,
        "gain": find_gain(before, best),
        "probability": _number(at_best.get("probability"), row),
        "strict": _number(status.get("strict"), row),
        "image": _number(status.get("image"), row),
        "step": found,
        "ended": describe_ending(status["rows"][row], state) if "rows" in status else "",
        "initial_file": str(files["initial"]) if os.path.exists(files["initial"]) else None,
        "best_file": str(files["best"]) if os.path.exists(files["best"]) else None,
    }


def _number(values: Sequence[float | None] | Mapping[int, float] | None, row: int) -> float | None:
    value: Any = None if values is None else values[row]
    return value if value is not None and math.isfinite(value) else None


def resume_command(path: Path) -> str:
    """The command that continues a run.

    Example:
        >>> resume_command(Path("runs/a duck"))
        "noiseward resume 'runs/a duck'"
    """
    return f"noiseward resume {shlex.quote(str(path))}"
