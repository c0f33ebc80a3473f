"""A run as files for others: a grid, an animation of its evolution, a table of all steps."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from noiseward import pictures
from noiseward.errors import ArgumentError, RunError
from noiseward.runs.files import replace
from noiseward.runs.store import RunFolder

__all__ = ["animation", "grid", "table"]

HOLD = 8  # frames the last picture of an animation stays


def grid(folder: RunFolder, path: Path) -> Path:
    """Starts above, best below, one column per row of the batch."""
    lines = [[_open(file) for file in sorted((folder.path / name).glob("*.png"))] for name in ("initial", "best")]
    if not all(lines):
        raise RunError(f"{folder.path} has no pictures: its samples are none, or it ended before its first step")
    _save(pictures.grid([[pictures.enlarge(image) for image in line] for line in lines]), path)
    return path


def animation(folder: RunFolder, path: Path, *, milliseconds: int = 120) -> Path:
    """The frames along the way and the best, all rows side by side, as an endless GIF or WebP.

    Raises:
        ArgumentError: the name ends in neither.
    """
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ArgumentError(f"{path} given: an animation is a .gif or a .webp")
    steps: dict[str, list[Image.Image]] = {}
    for file in sorted((folder.path / "frames").glob("[0-9]*-[0-9]*.png")):
        steps.setdefault(file.name.partition("-")[0], []).append(_open(file))
    best = [_open(file) for file in sorted((folder.path / "best").glob("*.png"))]
    if not steps or not best:
        raise RunError(f"{folder.path} has no frames: its samples are no pictures, or it ended before its first step")
    frames = [pictures.grid([[pictures.enlarge(image) for image in row]]) for row in (*steps.values(), best)]
    kind = path.suffix[1:].upper()
    first, *rest = frames + frames[-1:] * HOLD
    more = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    replace(path, lambda beside: first.save(beside, format=kind, **more))
    return path


def table(folder: RunFolder, path: Path) -> Path:
    """Every number of every step and row, one line each, as CSV."""
    steps = folder.steps()
    if not steps:
        raise RunError(f"{folder.path} has no steps yet")
    terms = list(steps[0]["terms"])
    columns = ["reward", "penalty", "value", "probability", "grad_norm"]

    def write(beside: Path) -> None:
        with open(beside, "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["step", "row", "seconds", "nfe_forward", "nfe_backward", "nfe_recomputed", *columns, *terms])
            for step in steps:
                calls = [step["nfe"][name] for name in ("forward", "backward", "recomputed")]
                for row in range(len(step["reward"])):
                    numbers = [step[name][row] if step[name] is not None else "" for name in columns]
                    numbers += [step["terms"][term][row] for term in terms]
                    out.writerow([step["index"], row, step["seconds"], *calls, *numbers])

    replace(path, write)
    return path


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError:
        raise RunError(f"{file} is damaged: remove it, and resume the run") from None


def _save(image: Image.Image, path: Path) -> None:
    replace(path, lambda beside: image.save(beside, format=path.suffix[1:].upper().replace("JPG", "JPEG") or "PNG"))
