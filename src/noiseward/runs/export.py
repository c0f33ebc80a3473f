"""A run as images for others: a grid, an animation of its evolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from noiseward.errors import ArgumentError, RunError, choices
from noiseward.images import draw_grid, enlarge
from noiseward.images.metadata import FORMATS, save_with_metadata
from noiseward.runs.consistency import read_initial
from noiseward.runs.describe import about_spec
from noiseward.runs.files import check_target, replace_file
from noiseward.runs.images import read_frames, read_images
from noiseward.runs.record import read_record
from noiseward.runs.store import RunFolder

__all__ = ["check_paths", "write_animation", "write_grid", "write_images"]

ANIMATED = (".gif", ".webp")
HOLD = 8  # frames for which the last image of an animation stays


def check_paths(*, grid: Path | None = None, animation: Path | None = None) -> None:
    """Raise unless files of these names can be written and are of a kind that is known."""
    if grid is not None:
        _kind(grid)
    if animation is not None and animation.suffix.lower() not in ANIMATED:
        raise ArgumentError(f"expected an animation that ends in {' or '.join(ANIMATED)}, got '{animation}'")
    for path in filter(None, (grid, animation)):
        check_target(path)


def write_grid(folder: RunFolder, path: Path) -> Path:
    """Starts above, best below, one column per row of the batch.

    Raises:
        ArgumentError: images are not written with that ending.
        RunError: there are no images, or they are not those of the run.
    """
    check_paths(grid=path)
    record = read_record(folder)
    lines = [read_images(folder, record, "initial"), read_images(folder, record, "best")] if record.lines else [[], []]
    if not all(lines):
        raise RunError(f"{folder.path} has no images; its samples are not images, or it ended before its first step")
    image = draw_grid([[enlarge(image) for image in line] for line in lines])
    replace_file(path, lambda beside: image.save(beside, format=_kind(path)))
    return path


def write_images(folder: RunFolder, path: Path, *, kind: str = "png", prefix: str = "") -> list[Path]:
    """Write the best images into a folder, with what made them.

    Arguments:
        folder: of the run.
        path: the folder to write to.
        kind: `png`, `jpg` or `webp`.
        prefix: of the names of files.

    Raises:
        ArgumentError: another kind.
        RunError: there are no images, or they are not those of the run.
    """
    if kind not in FORMATS:
        raise ArgumentError(f"unknown format '{kind}'; {choices(kind, FORMATS)}")
    record = read_record(folder)
    images = read_images(folder, record, "best") if record.lines else []
    if not images:
        raise RunError(f"{folder.path} has no images; its samples are not images, or it ended before its first step")
    before, (best, found) = record.steps[0]["reward"], (record.status["best"], record.status["found"])
    known = about_spec(record.spec).describe(images[0].size, before, best, steps=found)
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for row, (image, says) in enumerate(zip(images, known, strict=True)):
        file = path / f"{prefix}{row:02d}.{kind}"
        replace_file(file, lambda beside, image=image, says=says: _save(image, beside, says, kind))
        written.append(file)
    return written


def _save(image: Image.Image, path: Path, known: dict[str, Any], kind: str) -> None:
    save_with_metadata(image, path, known, kind=FORMATS[kind])


def write_animation(folder: RunFolder, path: Path, *, milliseconds: int = 120) -> Path:
    """The frames along the way and the best, all rows side by side, as an endless GIF or WebP.

    Raises:
        ArgumentError: the name ends in neither.
        RunError: there are no frames, or they are not those of the run.
    """
    check_paths(animation=path)
    record = read_record(folder)
    best = read_images(folder, record, "best") if record.lines else []
    start = read_initial(folder, record.spec)["sample"] if best else None
    steps = [] if start is None else [images for _, images in read_frames(folder, record.lines, start)]
    if not steps or not best:
        raise RunError(f"{folder.path} has no frames; its samples are not images, or it ended before its first step")
    frames = [draw_grid([[enlarge(image) for image in row]]) for row in (*steps, best)]
    kind = path.suffix[1:].upper()
    first, *rest = frames + frames[-1:] * HOLD
    more = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    replace_file(path, lambda beside: first.save(beside, format=kind, **more))
    return path


def _kind(path: Path) -> str:
    """The format in which an image of that name is written; PNG where the name has no ending."""
    Image.init()
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise ArgumentError(f"expected a grid that ends in .png, .jpg or .webp, got '{path}'")
    return kind
