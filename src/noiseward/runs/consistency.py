"""Whether the files of a run belong together: read as a whole, or refused with the name of what does not fit.

*To resume a run*, `read_resume_data` reads what its next step is made from. The lock is held, so the files must be
those of the last line of the log, or of the one before it (see `binding.py`). What is made from these (the status, the
closing images and plots) is not asked for: it is written again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import RunError
from noiseward.loop.budget import Status
from noiseward.loop.plausible import UNTESTED
from noiseward.loop.step import TESTS, Best
from noiseward.options.run import RunSpec
from noiseward.runs.binding import FILES, check_mark, previous_digest
from noiseward.runs.files import read_tensors
from noiseward.runs.log import Line
from noiseward.runs.record import AGAIN, is_near, tolerance
from noiseward.runs.schema import Loop, check, check_statuses
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder

__all__ = [
    "ResumeData",
    "read_best",
    "read_resume_data",
    "read_initial",
    "check_recorded",
]


@dataclasses.dataclass(frozen=True)
class ResumeData:
    """What a run is resumed from.

    Attributes:
        lines: of the log, before the step to make next.
        latest, loop: the place.
        best, peaks, initial: tensors by name; no peaks where nothing was watched.
        digests: of place, best and peaks, in the order of `binding.FILES`.
    """

    lines: list[Line]
    latest: dict[str, Tensor]
    loop: dict[str, Any]
    best: dict[str, Tensor]
    peaks: dict[str, Tensor] | None
    initial: dict[str, Tensor]
    digests: tuple[str | None, ...]


def read_resume_data(folder: RunFolder) -> ResumeData | None:
    """Read what a run is resumed from; None if it ended before its first step was written.

    Raises:
        RunError: a file is missing or garbled, was changed, or does not fit the others.
    """
    spec, path = folder.spec(), folder.path
    lines = folder.lines() if os.path.lexists(path / "steps.jsonl") else []
    if not os.path.lexists(path / "latest.safetensors"):
        if len(lines) > 1 or _began(folder):
            raise RunError(f"{path / 'latest.safetensors'} is missing: {AGAIN}")
        return None
    if not lines:
        raise RunError(f"{path / 'steps.jsonl'} has no step, but latest.safetensors continues after one: {AGAIN}")
    latest, metadata = read_tensors(path / "latest.safetensors")
    place, loop = check_mark(latest, metadata, path / "latest.safetensors", run_id(spec))
    check(loop, Loop, f"{path / 'latest.safetensors'}, its metadata")
    check_statuses(loop["status"], path / "latest.safetensors")
    if len(loop["status"]) != spec.rows:
        count = len(loop["status"])
        raise RunError(f"{path / 'latest.safetensors'}: expected the status of {spec.rows} rows, got {count}; {AGAIN}")
    best, found = read_best(folder, spec)
    peaks, peaked = None, None
    if os.path.lexists(path / "peaks.safetensors"):
        peaks, more = read_tensors(path / "peaks.safetensors")
        peaked, _ = check_mark(peaks, more, path / "peaks.safetensors", run_id(spec))
    digests = (place, found, peaked)
    _fit(lines, digests, path)
    history = [line for line in lines if line.record["index"] < loop["index"]]
    _follows(lines, history, loop, path / "latest.safetensors")
    _sound(latest, loop, path / "latest.safetensors")
    initial = read_initial(folder, spec)
    _same_shape(best["noise"], latest["noise"], path / "best.safetensors", "noise")
    _same_shape(best["sample"], initial["sample"], path / "best.safetensors", "sample")
    apart = tolerance(folder, spec)
    check_recorded(best, lines, path / "best.safetensors", apart=apart)
    check_recorded(initial, lines, path / "initial.safetensors", apart=apart)
    if peaks is None and any(line.record.get("watched") for line in history):
        raise RunError(f"{path / 'peaks.safetensors'} is missing: {AGAIN}")
    for name in dict.fromkeys(key.rpartition(".")[0] for key in peaks or ()):
        own = {key.rpartition(".")[2]: part for key, part in (peaks or {}).items() if key.startswith(f"{name}.")}
        peaks = {**(peaks or {}), **{f"{name}.{field}": part for field, part in _complete(own).items()}}
        _named(own, {field.name for field in dataclasses.fields(Best)}, path / "peaks.safetensors")
        _per_row(own, {"reward", "value", "probability", "index", *TESTS}, spec.rows, path / "peaks.safetensors")
        check_recorded(own, lines, path / "peaks.safetensors", apart=apart)
    return ResumeData(history, latest, loop, best, peaks, initial, digests)


def _began(folder: RunFolder) -> bool:
    """Whether a run's status speaks of a step."""
    return os.path.lexists(folder.path / "status.json") and "step" in folder.read("status.json")


def read_best(folder: RunFolder, spec: RunSpec) -> tuple[dict[str, Tensor], str]:
    """The tensors of `best.safetensors`, and their digest.

    Raises:
        RunError: it is missing or garbled, was changed, or does not fit the spec.
    """
    path = folder.path / "best.safetensors"
    found, metadata = read_tensors(path)
    digest, _ = check_mark(found, metadata, path, run_id(spec))
    names = {field.name for field in dataclasses.fields(Best)}
    _complete(found)
    _named(found, names, path)
    _per_row(found, names - {"noise", "sample"}, spec.rows, path)
    _real(found["noise"], "noise", path)
    numbers = all(found[name].is_floating_point() for name in ("sample", "reward", "value", "probability"))
    fine = numbers and not bool(found["reward"].isnan().any()) and found["index"].dtype == torch.int64
    if not fine or not bool(found["sample"][found["reward"].isfinite()].isfinite().all()):
        raise RunError(f"{path}: expected finite numbers, and whole ones for 'index', got something else; {AGAIN}")
    return found, digest


def read_initial(folder: RunFolder, spec: RunSpec) -> dict[str, Tensor]:
    """The tensors of `initial.safetensors`; raises as `best_of`."""
    path = folder.path / "initial.safetensors"
    found, metadata = read_tensors(path)
    check_mark(found, metadata, path, run_id(spec))
    names = {"sample", "reward", "penalty", "value"}
    _named(found, names | {name for name in found if name.startswith("terms.")}, path)
    _per_row(found, set(found) - {"sample"}, spec.rows, path)
    return found


def _fit(lines: list[Line], digests: tuple[str | None, ...], path: Path) -> None:
    """The files must be those of the last line, or what was there before it, and none older than `latest`."""
    now, before = lines[-1].bound, lines[-2].bound if len(lines) > 1 else None
    if now is None:
        return
    was = {name: previous_digest(name, now, before) for name in FILES}
    late = digests[0] == now["place"] != was["place"]  # it is written last
    for name, digest in zip(FILES, digests, strict=True):
        if digest != now[name] and (late or digest != was[name]):
            file = "latest" if name == "place" else name
            what = "is missing" if digest is None else "does not belong to the last step in steps.jsonl"
            raise RunError(f"{path / file}.safetensors {what}; restore the files of one instant, or run again")


def _follows(lines: list[Line], history: list[Line], loop: Mapping[str, Any], path: Path) -> None:
    """The place must be the one after the last line, or after the line before it."""
    ends = [line.record["index"] for line in lines[-2:]]
    least = history[-1].record["nfe"] if history else dict.fromkeys(loop["nfe"], 0)
    most = lines[-1].record["nfe"]
    paid = all(least[name] <= calls <= most[name] for name, calls in loop["nfe"].items())
    if not paid or not any(loop["index"] in (end, end + 1) for end in ends):
        raise RunError(f"{path} continues at step {loop['index']}, which does not follow from steps.jsonl: {AGAIN}")


def _sound(latest: Mapping[str, Tensor], loop: Mapping[str, Any], path: Path) -> None:
    """The noise must be finite, and the state without holes, in rows that are still optimized."""
    rows = len(loop["status"])
    if "noise" not in latest:
        raise RunError(f"{path}: expected a tensor 'noise', got nothing; {AGAIN}")
    _real(latest["noise"], "noise", path)
    moving = torch.tensor([name != Status.NONFINITE.name for name in loop["status"]])
    for name, part in latest.items():
        if part.ndim == 0 or part.shape[0] != rows:
            raise RunError(f"{path}: expected {rows} rows in '{name}', got shape {tuple(part.shape)}; {AGAIN}")
        if part.is_floating_point() and bool(part[moving].isnan().any()):
            raise RunError(f"{path}: expected numbers in '{name}', got nan; {AGAIN}")


def check_recorded(found: Mapping[str, Tensor], lines: list[Line], path: Path, *, apart: float) -> None:
    """Raise `RunError` unless what is known of the best of each row, or of the start, is in the log.

    Arguments:
        found: with an entry per row; `index` is the step, without it the first.
        lines: of the log.
        path: of the file.
        apart: see `slack`.
    """
    by_index = {line.record["index"]: line.record for line in lines}
    indices = found["index"].tolist() if "index" in found else [0] * found["reward"].shape[0]
    names = [name for name in ("reward", "value", "penalty", "probability") if name in found]
    for row, index in enumerate(indices):
        record = by_index.get(index, {})
        if not record or not all(is_near(found[name][row].item(), record[name][row], apart) for name in names):
            raise RunError(f"{path}: what it has of row {row} is not what steps.jsonl has of step {index}: {AGAIN}")


def _complete(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a best, with those of the tests, which earlier code did not make."""
    if isinstance(found.get("reward"), Tensor):
        for name in TESTS:
            found.setdefault(name, torch.full_like(found["reward"], UNTESTED, dtype=torch.float64))
    return found


def _named(found: Mapping[str, Tensor], names: set[str], path: Path) -> None:
    if wrong := names ^ set(found):
        what = ", ".join(sorted(wrong))[:80]
        raise RunError(f"{path}: expected the tensors {', '.join(sorted(names))}, which differ in {what}; {AGAIN}")


def _per_row(found: Mapping[str, Tensor], names: set[str], rows: int, path: Path) -> None:
    for name, part in found.items():
        fine = tuple(part.shape) == (rows,) if name in names else part.ndim > 1 and part.shape[0] == rows
        if not fine:
            raise RunError(f"{path}: expected {rows} rows in '{name}', got shape {tuple(part.shape)}; {AGAIN}")


def _real(part: Tensor, name: str, path: Path) -> None:
    if part.dtype not in (torch.float32, torch.float64):
        kind = str(part.dtype).removeprefix("torch.")
        raise RunError(f"{path}: expected float32 or float64 for '{name}', got {kind}; {AGAIN}")
    if not bool(part.isfinite().all()):
        raise RunError(f"{path}: expected finite numbers in '{name}', got nan or infinity; {AGAIN}")


def _same_shape(part: Tensor, other: Tensor, path: Path, name: str) -> None:
    if part.shape != other.shape or part.dtype != other.dtype:
        raise RunError(
            f"{path}: expected {tuple(other.shape)} of {str(other.dtype).removeprefix('torch.')} for '{name}', got "
            f"{tuple(part.shape)} of {str(part.dtype).removeprefix('torch.')}; {AGAIN}"
        )
