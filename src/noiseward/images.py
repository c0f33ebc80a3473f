"""Images in and out: samples as images, grids and strips of them, plots of a run, and images that a user passes in.

Everything returns PIL images, so that a notebook shows them and `.save(path)` keeps them.

:func:`convert_image` gives what `diffusers.utils.load_image` gives, an upright 8-bit image in RGB, and 8-bit gray for a
mask. In one thing it goes further: an image with more than 8 bits per pixel, as depth maps have, is scaled to 8 bits,
where Pillow's own conversion cuts off everything above 255 and leaves it white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from noiseward.errors import ArgumentError, describe_error, shorten

__all__ = [
    "convert_image", "draw_grid", "draw_strip", "enlarge", "open_rgb", "plot_history", "read_image", "to_images",
    "turn_upright",
]  # fmt: skip

_MAX_16_BITS = 65535
FAILED = -1000.0  # rewards from there on down are of samples that fail requirements, and are left out of plots
GAP = 4  # pixels between tiles
TILE = 128  # small images are enlarged to about this, by whole factors, to be seen


def to_images(sample: Tensor) -> list[Image.Image]:
    """Convert samples `(B, 3, H, W)` or `(B, 1, H, W)` in [0, 1] to one RGB image per row.

    Raises:
        ArgumentError: samples of another shape.

    Example:
        >>> to_images(torch.ones(2, 3, 8, 8))[0].getpixel((0, 0))
        (255, 255, 255)
    """
    if sample.ndim != 4 or sample.shape[1] not in (1, 3):
        raise ArgumentError(f"expected images (B, 3, H, W) in [0, 1], got samples of shape {tuple(sample.shape)}")
    levels = (sample.detach().float().cpu().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(numpy.ascontiguousarray(row.expand(3, -1, -1).permute(1, 2, 0).numpy())) for row in levels]


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarge a small image by a whole factor to about `TILE` pixels; return a larger one as it is."""
    factor = max(1, TILE // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw_grid(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = ()) -> Image.Image:
    """Arrange images of one size in rows, with an optional title above each column."""
    width, height = rows[0][0].size
    top = 16 if titles else 0
    columns = max(len(row) for row in rows)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, top + len(rows) * (height + GAP) - GAP), "white")
    for column, title in enumerate(titles):
        ImageDraw.Draw(canvas).text((column * (width + GAP) + 2, 2), title, fill="black")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            canvas.paste(image, (x * (width + GAP), top + y * (height + GAP)))
    return canvas


def draw_strip(
    initial: Tensor, frames: Sequence[tuple[int, Tensor]], best: Tensor, index: Sequence[int]
) -> Image.Image:
    """Draw a trajectory, one line per row: the start, frames along the way, and the best.

    Arguments:
        initial: samples of the start, `(B, 3, H, W)`.
        frames: (step, samples) along the way.
        best: the best samples.
        index: the step at which each best was found.
    """
    between = [(k, sample) for k, sample in frames if k > 0]
    columns = [to_images(initial), *(to_images(sample) for _, sample in between), to_images(best)]
    titles = ["start", *(f"step {k}" for k, _ in between), "best" if len(set(index)) > 1 else f"best ({index[0]})"]
    return draw_grid([[enlarge(column[row]) for column in columns] for row in range(len(index))], titles)


def plot_history(
    history: Sequence[dict[str, Any]], *, hacked: Mapping[int, int] = MappingProxyType({}), title: str = ""
) -> Image.Image:
    """Plot reward, watched rewards, P(z) and P(image) of every row against the step, one line per row, legible in gray.

    Arguments:
        history: records as `Step.record` gives them.
        hacked: by row, the step at which likely reward hacking begins; it is marked (`panel.find_hacked`).
        title: above the plot.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    watched = [record for record in history if record.get("watched")]
    names = list(watched[0]["watched"]) if watched else []
    steps = [record["index"] for record in history]
    rows = len(history[0]["reward"])
    figure = Figure(figsize=(7, 5 + len(names)), layout="constrained")
    ratios = (3, *(1 for _ in names), 1)
    above, *between, below = figure.subplots(2 + len(names), 1, sharex=True, height_ratios=ratios)
    styles = ["-", "--", ":", "-."]
    for row in range(rows):
        style = {"color": f"C{row % 10}", "linestyle": styles[row % 4], "marker": "." if len(steps) < 3 else ""}
        rewards = [record["reward"][row] for record in history]
        shown = [math.nan if reward is None or reward <= FAILED else reward for reward in rewards]
        above.plot(steps, shown, label=f"row {row}", **style)
        below.plot(steps, [max(record["probability"][row], 1e-12) for record in history], **style)
        tested = [(record["index"], record["image"][row]) for record in history if record.get("image")]
        seen = [(index, max(p, 1e-12)) for index, p in tested if p is not None]
        below.scatter(*zip(*seen, strict=True), s=14, marker="x", color=style["color"]) if seen else None
        for name, axes in zip(names, between, strict=True):
            axes.plot([one["index"] for one in watched], [one["watched"][name][row] for one in watched], **style)
        if row in hacked:
            for axes in (above, *between):
                axes.axvline(hacked[row], color=style["color"], linewidth=0.8, linestyle=":")
    for name, axes in zip(names, between, strict=True):
        axes.set_ylabel(f"{shorten(name, 40)}\n(watched)", fontsize=8, parse_math=False)  # no formula in $...$
        axes.grid(alpha=0.3)
    above.set_ylabel(shorten(f"reward ({' + '.join(history[0]['terms'])})", 80), parse_math=False)
    above.set_title(shorten(title, 120), parse_math=False)
    above.grid(alpha=0.3)
    crosses = any(record.get("image") for record in history)
    below.set(ylabel="P(z), x: P(image)" if crosses else "P(z)", xlabel="step", yscale="log", ylim=(1e-12, 2))
    below.axhline(0.1, color="0.5", linewidth=0.8)
    below.annotate(
        "fresh noise: above this line", (1, 0.1), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=7
    )
    below.grid(alpha=0.3)
    if 1 < rows <= 12:
        above.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def convert_image(image: Any, *, mask: bool = False) -> Any:
    """Convert a Pillow image of any mode to an upright 8-bit image in RGB, or in gray for a mask.

    Example:
        >>> depth = Image.new("I;16", (1, 1), 32896)
        >>> convert_image(depth).getpixel((0, 0))
        (128, 128, 128)
    """
    upright = turn_upright(image)
    if mask and upright.mode == "LAB":  # Pillow converts it to gray only by way of RGB
        upright = upright.convert("RGB")
    return upright.convert("L" if mask else "RGB")


def turn_upright(image: Any) -> Any:
    """Turn a Pillow image as its EXIF data say, and convert it to 8 bits per channel; its channels stay."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "La":  # multiplied by its opacity, which Pillow undoes into LA alone
        upright = upright.convert("LA")
    return _scale(upright) if upright.mode == "F" or upright.mode.startswith("I") else upright


def read_image(path: str | Path, name: str, prepare: Callable[[Any], Any] = convert_image) -> Any:
    """Read an image file.

    Arguments:
        path: of the file.
        name: of the argument, for messages.
        prepare: applied to the image: `convert_image` or `turn_upright`.

    Raises:
        ArgumentError: there is no such file, or it cannot be read.
    """
    try:
        with Image.open(Path(path).expanduser()) as file:
            return prepare(file)
    except ArgumentError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise ArgumentError(
            f"{name}: expected the path of an image, got '{path}' ({describe_error(error)}); check the file"
        ) from error


def open_rgb(path: Path) -> Image.Image | None:
    """The image of a file in RGB; None where there is none that can be read."""
    try:
        return read_image(path, "image")
    except ArgumentError:
        return None


def _scale(image: Any) -> Any:
    """A gray image of 16-bit, 32-bit or floating-point values in 8 bits: its whole range, scaled."""
    values = numpy.asarray(image).astype(numpy.float64)
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        scale = _MAX_16_BITS
    else:
        scale = 1 if image.mode == "F" and top <= 1 else 255
    if not (0 <= values.min(initial=0.0) and top <= scale):
        raise ArgumentError(
            f"expected a gray image with values from 0 to {scale}, got mode {image.mode} with values from "
            f"{values.min():.4g} to {top:.4g}; convert it to 8 or 16 bits"
        )
    return Image.fromarray(numpy.rint(values * (255 / scale)).astype(numpy.uint8))
