"""Resuming a run: where its loop stood, and what it had.

The place is `latest.safetensors`, the best so far `best.safetensors`, the past the log, the first evaluation and the
frames; `consistency.py` says whether they belong together. Where the run ended before its first step was written, it
begins again. `extend.py` says how much more it may be asked for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy
import torch
from torch import Tensor

from noiseward.errors import RunError
from noiseward.images import has_images, to_images
from noiseward.loop.budget import Status, update_pace
from noiseward.loop.collect import Past
from noiseward.loop.frames import Frames
from noiseward.loop.objective import Evaluation
from noiseward.loop.panel import PanelState
from noiseward.loop.solution_files import PEAK
from noiseward.loop.step import TESTS, Best, Checkpoint
from noiseward.runs.consistency import ResumeData, read_resume_data
from noiseward.runs.describe import about_spec
from noiseward.runs.images import read_frames
from noiseward.runs.log import Line, Log
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder
from noiseward.runs.write import FRAMES, save_images, save_json
from noiseward.samplers.cost import NFE

__all__ = ["ResumePoint", "mark_running", "find_resume_point"]


@dataclasses.dataclass(frozen=True)
class ResumePoint:
    """Where a run is resumed from.

    Attributes:
        place: of the loop.
        past: what it had before.
        frames: on disk.
        seen: what the panel saw; None where nothing was watched.
        data: what it was read from.
    """

    place: Checkpoint
    past: Past
    frames: Frames
    seen: PanelState | None
    data: ResumeData

    def log(self, folder: RunFolder, *, again: bool = False) -> Log:
        """The log to continue; `again` if the first step is made again, too."""
        kept = [] if again else self.data.lines
        return Log(folder.path / "steps.jsonl", run=run_id(folder.spec()), kept=kept, was=self.data.digests)


def find_resume_point(folder: RunFolder, device: torch.device) -> ResumePoint | None:
    """Find where a run continues; None if nothing was written yet. What is on disk stays as it is.

    Raises:
        RunError: a file is missing, cut short or garbled, was changed, or does not fit the others.
    """
    found = read_resume_data(folder)
    if found is None:
        return None
    history = [line.record for line in found.lines]
    seconds = [0.0, *(record["seconds"] for record in history)]
    pace = (0.0, 0)
    for before, after in zip(seconds, seconds[1:], strict=False):
        pace = update_pace(pace, max(after - before, 0.0), 0)
    state = {name.removeprefix("state."): part.to(device) for name, part in found.latest.items() if name != "noise"}
    state.pop("grad_norm", None)  # earlier code kept there what was only logged
    place = Checkpoint(
        index=found.loop["index"],
        noise=found.latest["noise"].to(device),
        multiplier=state.pop("multiplier", None),
        state=state,
        status=tuple(Status[name] for name in found.loop["status"]),
        best=_best(found.best, device),
        peak=_peak(found.peaks, device),
        nfe=NFE(**found.loop["nfe"]),
        seconds=seconds[-1],
        pace=(pace[0], found.loop["pace_nfe"]),
        untested=found.loop.get("untested"),
    )
    first = found.initial
    terms = {name.removeprefix("terms."): part for name, part in first.items() if name.startswith("terms.")}
    initial = Evaluation(first["sample"], first["reward"], terms, first["penalty"], first["value"])
    kept, fewer = _frames(folder, found.lines, first["sample"]), Frames()
    there = dict(kept)
    for line in found.lines:
        fewer.add(line.record["index"], there.get(line.record["index"]))
    return ResumePoint(place, Past(initial, history, fewer), kept, _seen(folder, found, history, device), found)


def mark_running(folder: RunFolder, found: ResumeData, *, again: bool = False) -> None:
    """Mark a run as running again, at a step that the log has now and will have from its next line on.

    Images of the start that are gone come back.
    """
    sample = found.initial["sample"]
    if has_images(sample) and not all((folder.path / "initial" / f"{k:02d}.png").exists() for k in range(len(sample))):
        images, reward = to_images(sample), found.initial["reward"].tolist()
        known = about_spec(folder.spec()).describe(images[0].size, reward, reward)
        save_images(folder.path / "initial", images, known=known)
    last = None if again or not found.lines else found.lines[-1].record
    begun = folder.lines()[0].record
    record = last or begun
    best = (found.best["reward"].tolist(), found.best["index"].tolist())
    if again:
        best = begun["reward"], [0] * len(begun["reward"])
    status = {
        "state": "running",
        "step": record["index"],
        "seconds": record["seconds"],
        "best": best[0],
        "found": best[1],
        "rows": found.loop["status"],
    }
    save_json(folder.path / "status.json", status, run_id(folder.spec()))


def _best(found: dict[str, Tensor], device: torch.device) -> Best:
    """A best from its tensors; those of the tests stay where they are computed."""
    return Best(**{name: part if name in TESTS else part.to(device) for name, part in found.items()})


def _peak(peaks: dict[str, Tensor] | None, device: torch.device) -> Best | None:
    """What was highest of all, where results must be plausible."""
    own = {key[1:]: part for key, part in (peaks or {}).items() if key.startswith(f"{PEAK}.")}
    return _best(own, device) if own else None


def _seen(
    folder: RunFolder, found: ResumeData, history: list[dict[str, Any]], device: torch.device
) -> PanelState | None:
    """What the panel saw in the steps before."""
    watched = [record["watched"] for record in history if record.get("watched")]
    if not watched or found.peaks is None:
        return None
    fields: dict[str, dict[str, Tensor]] = {}
    for key, part in found.peaks.items():
        name, _, field = key.rpartition(".")
        if name != PEAK:
            fields.setdefault(name, {})[field] = part
    try:
        peaks = {name: _best(parts, device) for name, parts in fields.items()}
        scores = {
            name: [[-torch.inf if s is None or s != s else s for s in one[name]] for one in watched] for name in peaks
        }
        highest = {
            name: torch.tensor(rows, dtype=peaks[name].reward.dtype, device=device).amax(0)
            for name, rows in scores.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder.path / 'peaks.safetensors'} does not fit the run ({error}); run again") from None
    for name, best in peaks.items():
        if any(getattr(best, field).shape != part.shape for field, part in found.best.items()):
            raise RunError(f"{folder.path / 'peaks.safetensors'} has other shapes than the run for '{name}'; run again")
    return PanelState(highest, peaks)


def _frames(folder: RunFolder, lines: list[Line], sample: Tensor) -> Frames:
    """The frames on disk, spread as those of a run that was never cut."""
    frames, there = Frames(FRAMES), {id(line): images for line, images in read_frames(folder, lines, sample)}
    for line in lines:
        images = there.get(id(line))
        levels = [torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255 for image in images or ()]
        frames.add(line.record["index"], torch.stack(levels) if levels else None)
    return frames
