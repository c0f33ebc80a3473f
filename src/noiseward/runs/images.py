"""The images in a run directory, each of them that of its row and step: what does not fit is refused by name."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from noiseward.errors import RunError
from noiseward.images import to_images
from noiseward.runs.binding import digest_of_images
from noiseward.runs.consistency import Told, best_of, initial_of, recorded, slack
from noiseward.runs.files import read_bytes
from noiseward.runs.log import Line
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder
from noiseward.runs.write import pictured

__all__ = ["check_results", "frames_of", "images_of", "opened"]


def images_of(folder: RunFolder, said: Told, which: Literal["initial", "best"]) -> list[Image.Image]:
    """The images of the start, or the best ones, one per row; none where samples are no images.

    Raises:
        RunError: one is missing or damaged, or is not the image of its row.
    """
    sample = (initial_of(folder, said.spec) if which == "initial" else best_of(folder, said.spec)[0])["sample"]
    if not pictured(sample):
        return []
    size = (sample.shape[3], sample.shape[2])
    fitting = [{one} for one in digest_of_images(to_images(sample))]
    early = which == "best" and said.status["state"] in ("running", "failed")  # written now and then
    for line in said.lines if early else ():
        for row, one in enumerate((line.bound or {}).get("pixels") or ()):
            fitting[row].add(one)
    images = []
    for row, known in enumerate(fitting):
        file = folder.path / which / f"{row:02d}.png"
        image = opened(file)
        unknown = early and run_id(said.spec) is None
        if image.size != size or (not unknown and digest_of_images([image])[0] not in known):
            raise RunError(f"{file} is not the image of row {row}: remove it, and 'noiseward resume {folder.path}'")
        images.append(image)
    return images


def check_results(folder: RunFolder, said: Told, *, closely: bool = False) -> None:
    """Raise `RunError` unless the results of a run that is done are there.

    Arguments:
        folder, said: the run.
        closely: look at each image, not only whether it is there.
    """
    best, _ = best_of(folder, said.spec)
    recorded(best, said.lines, folder.path / "best.safetensors", apart=slack(folder, said.spec))
    for which in ("initial", "best"):
        for row in range(said.spec.rows if pictured(best["sample"]) else 0):
            file = folder.path / which / f"{row:02d}.png"
            if not os.path.isfile(file):
                what = "no file: remove it, and" if os.path.lexists(file) else "missing:"
                raise RunError(f"{file} is {what} 'noiseward resume {folder.path}'")
        if closely:
            images_of(folder, said, which)


def frames_of(folder: RunFolder, lines: Sequence[Line], sample: Tensor) -> Iterator[tuple[Line, list[Image.Image]]]:
    """The frames of steps that have one image per row; others were being written, or removed, when the run ended.

    Raises:
        RunError: one is damaged, or is not the image of its step and row.
    """
    size = (sample.shape[3], sample.shape[2])
    for line in lines if pictured(sample) else ():
        index = line.record["index"]
        files = [folder.path / "frames" / f"{index:05d}-{row:02d}.png" for row in range(sample.shape[0])]
        if not all(os.path.lexists(file) for file in files):
            continue
        images = [opened(file) for file in files]
        found = digest_of_images(images)
        known = (line.bound or {}).get("pixels") or found
        for file, image, *digests in zip(files, images, known, found, strict=True):
            if image.size != size or digests[0] != digests[1]:
                raise RunError(f"{file} is not the image of step {index} of this run: remove it, and resume again")
        yield line, images


def opened(file: Path) -> Image.Image:
    """The image in a file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        with Image.open(io.BytesIO(read_bytes(file))) as image:
            return image.convert("RGB")
    except Exception:  # PIL raises errors of many kinds over damaged files
        what = "damaged" if os.path.lexists(file) else "missing"
        raise RunError(f"{file} is {what}: remove it, and 'noiseward resume {file.parent.parent}'") from None
