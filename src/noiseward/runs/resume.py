"""Going on with a run: where its loop stood, what it had, and how much more is asked.

The place is `latest.safetensors`, the best so far `best.safetensors`, the past the log, the first evaluation and the
frames. Where the run ended before its first step was written, it begins anew.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from noiseward.budget import Status, slowed
from noiseward.errors import ArgumentError, RunError
from noiseward.objective import Evaluation
from noiseward.optimize import Best, Place
from noiseward.panel import Seen
from noiseward.recompute import NFE
from noiseward.runs.files import read_tensors
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import FRAMES, RunFolder
from noiseward.solution import Frames, Past

__all__ = ["extended", "past", "place", "seen"]


def place(folder: RunFolder, device: torch.device) -> Place | None:
    """Where the run goes on; None where nothing was written yet.

    Raises:
        RunError: a file is missing, cut short or garbled.
    """
    if not (folder.path / "latest.safetensors").exists():
        return None
    latest, metadata = read_tensors(folder.path / "latest.safetensors")
    known, _ = read_tensors(folder.path / "best.safetensors")
    try:
        loop = json.loads(metadata["loop"])
        seconds = [0.0, *(record["seconds"] for record in folder.steps() if record["index"] < loop["index"])]
        pace = (0.0, 0)
        for before, after in zip(seconds, seconds[1:], strict=False):
            pace = slowed(pace, max(after - before, 0.0), 0)
        return Place(
            index=loop["index"],
            noise=latest["noise"].to(device),
            state={name.removeprefix("state."): part for name, part in latest.items() if name != "noise"},
            status=tuple(Status[name] for name in loop["status"]),
            best=Best(**{name: part.to(device) for name, part in known.items()}),
            nfe=NFE(**loop["nfe"]),
            seconds=seconds[-1],
            pace=(pace[0], loop["pace_nfe"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder.path / 'latest.safetensors'} or best.safetensors lacks something ({error}): run again"
        ) from None


def past(folder: RunFolder, index: int) -> tuple[Past, Frames]:
    """What the run had before step `index`, and the frames on disk; the log is cut there, and written back."""
    history = [record for record in folder.steps() if record["index"] < index]
    found, _ = read_tensors(folder.path / "initial.safetensors")
    terms = {name.removeprefix("terms."): part for name, part in found.items() if name.startswith("terms.")}
    initial = Evaluation(found["sample"], found["reward"], terms, found["penalty"], found["value"])
    folder.rewrite(history)
    kept = _frames(folder, index)
    fewer = Frames()
    for step, sample in kept:
        fewer.add(step, sample)
    return Past(initial, history, fewer), kept


def seen(folder: RunFolder, history: list[dict[str, Any]], device: torch.device) -> Seen | None:
    """What the panel saw in the steps before; None where nothing was watched."""
    watched = [record["watched"] for record in history if record.get("watched")]
    if not watched or not (folder.path / "peaks.safetensors").exists():
        return None
    known, _ = read_tensors(folder.path / "peaks.safetensors")
    fields: dict[str, dict[str, Tensor]] = {}
    for key, part in known.items():
        name, _, field = key.rpartition(".")
        fields.setdefault(name, {})[field] = part.to(device)
    try:
        peaks = {name: Best(**parts) for name, parts in fields.items()}
        scores = {
            name: [[-torch.inf if s is None or s != s else s for s in one[name]] for one in watched] for name in peaks
        }
        highest = {
            name: torch.tensor(rows, dtype=peaks[name].reward.dtype, device=device).amax(0)
            for name, rows in scores.items()
        }
        return Seen(highest, peaks)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.path / 'peaks.safetensors'} does not fit the run ({error}): run again") from None


def _frames(folder: RunFolder, index: int) -> Frames:
    rows: dict[int, list[Tensor]] = {}
    for file in sorted((folder.path / "frames").glob("[0-9]*-[0-9]*.png")):
        step = int(file.name.partition("-")[0])
        if step < index:
            try:
                levels = torch.from_numpy(numpy.array(Image.open(file).convert("RGB")))
            except (OSError, UnidentifiedImageError):
                raise RunError(f"{file} is damaged: remove it, and resume again") from None
            rows.setdefault(step, []).append(levels.permute(2, 0, 1) / 255)
    return Frames.of([(step, torch.stack(pictures)) for step, pictures in rows.items()], limit=FRAMES)


def extended(spec: RunSpec, *, steps: str | None, seconds: str | None, nfe: str | None) -> RunSpec:
    """The spec with a larger budget: `50` in all, or `+50` beside what was asked before.

    Example:
        >>> spec = RunSpec(prompt=("a",), reward=("brightness",), steps=30)
        >>> extended(spec, steps="+20", seconds=None, nfe=None).steps
        50
    """
    asked: dict[str, float | None] = {}
    for name, text, kind in (("steps", steps, int), ("seconds", seconds, float), ("nfe", nfe, int)):
        if text is None:
            continue
        if not re.fullmatch(r"\+?\d+(\.\d+)?", text) or (kind is int and "." in text):
            raise ArgumentError(f"--{name} {text} given: a number in all, as 50, or more than before, as +20, wanted")
        before = getattr(spec.resolved(), name)
        if text.startswith("+") and before is None:
            raise ArgumentError(f"--{name} {text} given, but the run had no limit of {name}: give the number in all")
        asked[name] = kind(text) + (before or 0) if text.startswith("+") else kind(text)
    return dataclasses.replace(spec.resolved(), **asked)
