"""The images in a run directory, each checked to be that of its row and step."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from noiseward.errors import RunError
from noiseward.images import has_images, to_images
from noiseward.runs.binding import digest_images
from noiseward.runs.consistency import check_recorded, read_best, read_initial
from noiseward.runs.files import read_bytes
from noiseward.runs.log import Line
from noiseward.runs.record import RunRecord, tolerance
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder

__all__ = ["check_results", "read_frames", "read_images", "open_image"]


def read_images(folder: RunFolder, record: RunRecord, which: Literal["initial", "best"]) -> list[Image.Image]:
    """The images of the start, or the best ones, one per row; none where samples are no images.

    Raises:
        RunError: one is missing or damaged, or is not the image of its row.
    """
    sample = (read_initial(folder, record.spec) if which == "initial" else read_best(folder, record.spec)[0])["sample"]
    if not has_images(sample):
        return []
    size = (sample.shape[3], sample.shape[2])
    fitting = [{one} for one in digest_images(to_images(sample))]
    early = which == "best" and record.status["state"] in ("running", "failed")  # written every few seconds
    for line in record.lines if early else ():
        for row, one in enumerate((line.bound or {}).get("pixels") or ()):
            fitting[row].add(one)
    images = []
    for row, known in enumerate(fitting):
        file = folder.path / which / f"{row:02d}.png"
        image = open_image(file)
        unknown = early and run_id(record.spec) is None
        if image.size != size or (not unknown and digest_images([image])[0] not in known):
            raise RunError(f"{file} is not the image of row {row}; remove it, and 'noiseward resume {folder.path}'")
        images.append(image)
    return images


def check_results(folder: RunFolder, record: RunRecord, *, closely: bool = False) -> None:
    """Raise `RunError` unless the results of a run that is done are there.

    Arguments:
        folder, record: the run.
        closely: check each image, not only whether it is there.
    """
    best, _ = read_best(folder, record.spec)
    check_recorded(best, record.lines, folder.path / "best.safetensors", apart=tolerance(folder, record.spec))
    for which in ("initial", "best"):
        for row in range(record.spec.rows if has_images(best["sample"]) else 0):
            file = folder.path / which / f"{row:02d}.png"
            if not os.path.isfile(file):
                what = "no file; remove it, and" if os.path.lexists(file) else "missing:"
                raise RunError(f"{file} is {what} 'noiseward resume {folder.path}'")
        if closely:
            read_images(folder, record, which)


def read_frames(folder: RunFolder, lines: Sequence[Line], sample: Tensor) -> Iterator[tuple[Line, list[Image.Image]]]:
    """The frames of steps that have one image per row; others were being written, or removed, when the run ended.

    Raises:
        RunError: one is damaged, or is not the image of its step and row.
    """
    if not has_images(sample):
        return
    size = (sample.shape[3], sample.shape[2])
    for line in lines:
        index = line.record["index"]
        files = [folder.path / "frames" / f"{index:05d}-{row:02d}.png" for row in range(sample.shape[0])]
        if not all(os.path.lexists(file) for file in files):
            continue
        images = [open_image(file) for file in files]
        found = digest_images(images)
        known = (line.bound or {}).get("pixels") or found
        for file, image, *digests in zip(files, images, known, found, strict=True):
            if image.size != size or digests[0] != digests[1]:
                raise RunError(f"{file} is not the image of step {index} of this run; remove it, and resume again")
        yield line, images


def open_image(file: Path) -> Image.Image:
    """The image in a file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(file))) as image:
            return image.convert("RGB")
    except Exception:  # PIL raises errors of many kinds over damaged files
        what = "damaged; remove it, and" if os.path.lexists(file) else "missing:"
        raise RunError(f"{file} is {what} 'noiseward resume {file.parent.parent}'") from None
