"""A run as files for others: a grid, an animation of its evolution, a table of all steps."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from noiseward.errors import ArgumentError, RunError
from noiseward.images import draw_grid, enlarge
from noiseward.runs.consistency import initial_of, told
from noiseward.runs.files import check_target, replace
from noiseward.runs.images import frames_of, images_of
from noiseward.runs.store import RunFolder

__all__ = ["animation", "check", "grid", "table"]

ANIMATED = (".gif", ".webp")
HOLD = 8  # frames the last picture of an animation stays


def check(*, grid: Path | None = None, animation: Path | None = None, table: Path | None = None) -> None:
    """Raise unless files of these names can be written and are of a kind that is known."""
    if grid is not None:
        _kind(grid)
    if animation is not None and animation.suffix.lower() not in ANIMATED:
        raise ArgumentError(f"expected an animation that ends in {' or '.join(ANIMATED)}, got '{animation}'")
    for path in filter(None, (grid, animation, table)):
        check_target(path)


def grid(folder: RunFolder, path: Path) -> Path:
    """Starts above, best below, one column per row of the batch.

    Raises:
        ArgumentError: images are not written with that ending.
        RunError: there are no images, or they are not those of the run.
    """
    check(grid=path)
    said = told(folder)
    lines = [images_of(folder, said, "initial"), images_of(folder, said, "best")] if said.lines else [[], []]
    if not all(lines):
        raise RunError(f"{folder.path} has no pictures: its samples are none, or it ended before its first step")
    image = draw_grid([[enlarge(image) for image in line] for line in lines])
    replace(path, lambda beside: image.save(beside, format=_kind(path)))
    return path


def animation(folder: RunFolder, path: Path, *, milliseconds: int = 120) -> Path:
    """The frames along the way and the best, all rows side by side, as an endless GIF or WebP.

    Raises:
        ArgumentError: the name ends in neither.
        RunError: there are no frames, or they are not those of the run.
    """
    check(animation=path)
    said = told(folder)
    best = images_of(folder, said, "best") if said.lines else []
    start = initial_of(folder, said.spec)["sample"] if best else None
    steps = [] if start is None else [images for _, images in frames_of(folder, said.lines, start)]
    if not steps or not best:
        raise RunError(f"{folder.path} has no frames: its samples are no pictures, or it ended before its first step")
    frames = [draw_grid([[enlarge(image) for image in row]]) for row in (*steps, best)]
    kind = path.suffix[1:].upper()
    first, *rest = frames + frames[-1:] * HOLD
    more = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0}
    replace(path, lambda beside: first.save(beside, format=kind, **more))
    return path


def table(folder: RunFolder, path: Path) -> Path:
    """Every number of every step and row, one line each, as CSV."""
    check(table=path)
    steps = told(folder).steps
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


def _kind(path: Path) -> str:
    """The format in which an image of that name is written; PNG where the name has no ending."""
    Image.init()
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise ArgumentError(f"expected a grid that ends in .png, .jpg or .webp, got '{path}'")
    return kind
