"""Writing a run down, step by step; the order of the writes is explained in `store.py`, their seals in `binding.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from PIL import Image
from torch import Tensor

from noiseward import __version__
from noiseward.images import has_images, to_images
from noiseward.images.metadata import FORMATS, save_with_metadata
from noiseward.loop.frames import Frames
from noiseward.loop.solution_files import copy_tensors, pack_layout, pack_peaks
from noiseward.loop.step import Step
from noiseward.noise.layout import Layout
from noiseward.options.run import RunSpec
from noiseward.runs.binding import FILES, Bound, digest_images, digest_tensors, mark, seal
from noiseward.runs.describe import about_spec
from noiseward.runs.files import replace_file, write_tensors
from noiseward.runs.inputs import Inputs, write_inputs
from noiseward.runs.log import Log
from noiseward.runs.spec import run_id, to_text

__all__ = ["FRAMES", "LIBRARIES", "Writer", "save_image", "save_images", "save_json"]

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
IMAGES_EVERY = 5.0  # seconds between two writings of the best images
FRAMES = 24
NOISE = 2**28  # bytes that the noise of all frames of a run may take; of larger noise none is kept


@final
class Writer:
    """Writes the steps of one run, or of the rest of one.

    Arguments:
        path: its directory.
        spec: what was asked.
        fingerprint: of the model.
        layout: the sampler's draws.
        frames: those the run has already.
        log: of a resumed run; None for a new one.
        before: the reward of its start; None for a new one.
        inputs: the images that it was given, as files.
    """

    def __init__(
        self,
        path: Path,
        spec: RunSpec,
        *,
        fingerprint: str,
        layout: Layout,
        frames: Frames | None,
        log: Log | None,
        before: Sequence[float] | None,
        inputs: Inputs | None = None,
    ) -> None:
        self._path, self._spec, self._run, self._model = path, spec, run_id(spec), fingerprint
        self._frames = Frames(FRAMES) if frames is None else frames
        self._log, self._pictured, self._tidy = log, 0.0, False
        was = log.was if log is not None and log.was is not None else (None, None, None)
        self._about, self._before, self._layout = about_spec(spec), before, layout
        self._inputs = inputs or {}
        self._written: dict[str, str | None] = dict(zip(FILES, was, strict=True))

    def write(self, step: Step) -> None:
        """Write a step down."""
        self._before = self._before or step.evaluation.reward.tolist()
        if self._log is None:
            self._begin(step)
            self._log = Log(self._path / "steps.jsonl", run=self._run)
        if not (self._path / "about.json").exists():  # runs of earlier versions have none
            about = {**self._about.plain(), "layout": pack_layout(self._layout)}
            save_json(self._path / "about.json", about, self._run)
        images = to_images(step.evaluation.sample) if has_images(step.evaluation.sample) else None
        place, loop = _place(step)
        best = copy_tensors(vars(step.best)) if self._written["best"] is None or _improved(step) else None
        peaks = pack_peaks(step.peaks, step.peak)
        bound: Bound = {
            "place": digest_tensors(place, loop),
            "best": digest_tensors(best) if best else self._written["best"] or "",
            "peaks": digest_tensors(peaks) if peaks else self._written["peaks"],
            "pixels": None if images is None else digest_images(images),
        }
        self._log.add(step.record(), None if self._run is None else bound)
        if best:
            write_tensors(self._path / "best.safetensors", best, mark(best, self._run))
            if time.monotonic() - self._pictured > IMAGES_EVERY and has_images(step.best.sample):
                self._save("best", to_images(step.best.sample), step.best.reward, step.best.index.tolist())
                self._pictured = time.monotonic()
        if peaks and bound["peaks"] != self._written["peaks"]:
            write_tensors(self._path / "peaks.safetensors", peaks, mark(peaks, self._run))
        if images is not None:
            self._frame(step, images)
        write_tensors(self._path / "latest.safetensors", place, mark(place, self._run, loop))
        self._written = {name: bound[name] for name in FILES}
        status = {
            "state": "running",
            "step": step.index,
            "seconds": step.seconds,
            "best": step.best.reward.tolist(),
            "found": step.best.index.tolist(),
            "rows": [status.name for status in step.status],
        }
        save_json(self._path / "status.json", status, self._run)

    def _begin(self, step: Step) -> None:
        """What is known before the first step is written; the spec first, which makes the directory that of a run."""
        with contextlib.suppress(OSError):  # what cannot be made cannot be written, which says more
            self._path.mkdir(exist_ok=True)
        replace_file(self._path / "spec.json", lambda path: path.write_text(to_text(self._spec) + "\n"))
        libraries = {"noiseward": __version__, **{name: version(name) for name in LIBRARIES}}
        machine = {"python": platform.python_version(), "device": str(step.noise.device), "fingerprint": self._model}
        inputs = write_inputs(self._inputs, self._path)
        save_json(self._path / "env.json", {**machine, **libraries, **inputs}, self._run)
        if has_images(step.evaluation.sample):
            self._save("initial", to_images(step.evaluation.sample), step.evaluation.reward)
        evaluation = {name: getattr(step.evaluation, name) for name in ("sample", "reward", "penalty", "value")}
        terms = {f"terms.{name}": term for name, term in step.evaluation.terms.items()}
        found = copy_tensors({**evaluation, **terms})
        write_tensors(self._path / "initial.safetensors", found, mark(found, self._run))

    def _frame(self, step: Step, images: Sequence[Image.Image]) -> None:
        """Keep a few images, evenly spread; files of frames that are dropped go too, and those of no frame."""
        before = {index for index, _ in self._frames}
        self._frames.add(step.index, step.evaluation.sample)
        after = {index for index, _ in self._frames}
        folder = self._path / "frames"
        if step.index in after:
            rows = [step.index] * len(images)
            self._save("frames", images, step.evaluation.reward, rows, prefix=f"{step.index:05d}-")
            if step.noise.nbytes * FRAMES <= NOISE:
                noise = copy_tensors({"noise": step.noise})
                write_tensors(folder / f"{step.index:05d}.safetensors", noise, mark(noise, self._run))
        gone = [file for index in before - after for file in folder.glob(f"{index:05d}[-.]*")]
        if not self._tidy:
            gone = [file for file in folder.glob("[0-9]*[-.][0-9s]*") if _step(file) not in after]
            self._tidy = True
        for file in gone:
            file.unlink(missing_ok=True)

    def _save(
        self,
        folder: str,
        images: Sequence[Image.Image],
        reward: Tensor,
        steps: Sequence[int] = (),
        *,
        prefix: str = "",
    ) -> None:
        """Replace images, with what made them."""
        known = self._about.describe(images[0].size, self._before or [], reward.tolist(), steps=steps)
        save_images(self._path / folder, images, prefix, known)


def save_images(
    folder: Path,
    images: Sequence[Image.Image],
    prefix: str = "",
    known: Sequence[Mapping[str, Any]] = (),
    *,
    kind: str = "png",
) -> None:
    """Replace the images of a folder, one per row, with what is known of each."""
    for row, image in enumerate(images):
        save_image(folder / f"{prefix}{row:02d}.{kind}", image, known[row] if known else None)


def save_image(path: Path, image: Image.Image, known: Mapping[str, Any] | None = None) -> None:
    """Replace an image, with what is known of it."""

    def write(beside: Path) -> None:
        beside.parent.mkdir(parents=True, exist_ok=True)
        if known is None:
            image.save(beside, format="PNG")
        else:
            save_with_metadata(image, beside, known, kind=FORMATS[path.suffix[1:]])

    replace_file(path, write)


def save_json(path: Path, content: dict[str, Any], run: str | None) -> None:
    """Replace a JSON file, sealed unless the run is of format 1."""
    whole = content if run is None else seal(content, run)
    replace_file(path, lambda beside: beside.write_text(json.dumps(whole, indent=2) + "\n"))


def _step(file: Path) -> int:
    return int(re.split("[-.]", file.name)[0])


def _improved(step: Step) -> bool:
    return bool((step.best.index == step.index).any())


def _place(step: Step) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is needed to continue, without times: tensors, and the rest as plain data."""
    place = step.checkpoint
    found = {"noise": place.noise, **{f"state.{name}": part for name, part in place.state.items()}}
    if place.multiplier is not None:
        found["state.multiplier"] = place.multiplier  # the key of earlier formats
    rest = {
        "index": place.index,
        "status": [status.name for status in place.status],
        "nfe": dataclasses.asdict(place.nfe),
        "pace_nfe": place.pace[1],
        **({"untested": place.untested} if place.untested else {}),
    }
    return copy_tensors(found), rest
