"""Images next to each other: grids, and strips of a trajectory."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from noiseward.images.convert import to_images
from noiseward.options.slug import spell_emoji

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GAP", "TILE", "draw_grid", "draw_strip", "enlarge"]

GAP = 4  # pixels between tiles
LINE, FONT = 19, 13  # pixels of a line of text, and of its letters
MISSING = "\U0010ffff"  # a character that no font has
TILE = 128  # small images are enlarged to about this, by whole factors, to be seen


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarge a small image, smoothly, by a whole factor to about `TILE` pixels; return a larger one as it is."""
    factor = max(1, TILE // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def draw_grid(
    rows: Sequence[Sequence[Image.Image]], titles: Sequence[str] = (), captions: Sequence[str] = ()
) -> Image.Image:
    """Arrange images of one size in rows, with an optional title above each column, and a caption above each row."""
    width, height = rows[0][0].size
    top, above = LINE if titles else 0, LINE if captions else 0
    columns = max(len(row) for row in rows)
    each = above + height + GAP
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, top + len(rows) * each - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.font = ImageFont.load_default(FONT)
    for column, title in enumerate(titles):
        draw.text((column * (width + GAP) + 2, 2), _fit(draw, title, width - 2), fill="black")
    for y, row in enumerate(rows):
        if captions:
            draw.text((2, top + y * each + 2), _fit(draw, captions[y], canvas.width - 2), fill="black")
        for x, image in enumerate(row):
            canvas.paste(image, (x * (width + GAP), top + y * each + above))
    return canvas


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """A text on one line that the font can draw, cut where it is wider than there is room for."""
    text = " ".join(_spell(draw, text).split())
    if draw.textlength(text) <= width:
        return text
    while text and draw.textlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _spell(draw: ImageDraw.ImageDraw, text: str) -> str:
    """A text without characters that the font draws as a box: emoji by name, letters without accents, else `?`."""
    font: Any = draw.getfont()
    missing = bytes(font.getmask(MISSING))

    def spell(one: str) -> str:
        if bytes(font.getmask(one)) != missing:
            return one
        base = unicodedata.normalize("NFKD", one)[0]
        return base if base.isascii() else "?"

    return "".join(one if one.isascii() else spell(one) for one in unicodedata.normalize("NFC", spell_emoji(text)))


def draw_strip(
    initial: Tensor,
    frames: Sequence[tuple[int, Tensor]],
    best: Tensor,
    index: Sequence[int],
    *,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Draw a trajectory, one line per row: the start, frames along the way, and the best.

    Arguments:
        initial: samples of the start, `(B, 3, H, W)`.
        frames: (step, samples) along the way.
        best: the best samples.
        index: the step at which each best was found.
        captions: above each row.
    """
    between = [(k, sample) for k, sample in frames if k > 0]
    columns = [to_images(initial), *(to_images(sample) for _, sample in between), to_images(best)]
    titles = ["start", *(f"step {k}" for k, _ in between), "best" if len(set(index)) > 1 else f"best: step {index[0]}"]
    return draw_grid([[enlarge(column[row]) for column in columns] for row in range(len(index))], titles, captions)
