"""Images rendered by this project: an emoji glyph as a sticker on a solid background.

An image is a glyph with a white sticker border, tilted by at most 20 degrees, scaled so
that its longer side is 65 to 95 % of the image, placed at random so that it stays inside, on a background
of one of 12 colors with a little jitter. Glyphs come from the Noto Color Emoji font, whose bitmaps exist
only at size 109; they are scaled down once per size, and only turned and moved (bicubic) per image.

Every image is a function of (stream name, index): a run that is interrupted and resumed sees the same
images, and the held-out stream shares no image with the training streams.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

from training.settings import DATA
from training.words import COLORS, NOUNS, caption

_COLORS = tuple(COLORS)


@dataclass(frozen=True)
class Scene:
    """What an image shows: noun, background (name, exact color), and how the glyph lies (pixels, radians)."""

    noun: str
    color: str
    named: bool
    background: tuple[int, int, int]
    side: int
    tilt: float
    flipped: bool
    left: float
    top: float

    @property
    def caption(self) -> str:
        """The caption, which names the background color in about half of the images."""
        return caption(self.noun, self.color if self.named else None)


def describe(stream: str, index: int, nouns: tuple[str, ...]) -> Scene:
    """What image number `index` of a stream shows; its noun is drawn from `nouns`."""
    draw = np.random.default_rng((DATA.seed, zlib.crc32(stream.encode()), index))
    noun, color = nouns[draw.integers(len(nouns))], _COLORS[draw.integers(len(_COLORS))]
    numbers = draw.random(8)
    side = round(DATA.size * (DATA.scale[0] + (DATA.scale[1] - DATA.scale[0]) * numbers[0]))
    room = (DATA.size - side) / 2
    jitter = (2 * numbers[1:4] - 1) * DATA.jitter
    return Scene(
        noun,
        color,
        named=bool(draw.random() < DATA.named),
        background=tuple(int(np.clip(c + j, 0, 255)) for c, j in zip(COLORS[color], jitter, strict=True)),
        side=side,
        tilt=math.radians(DATA.tilt * (2 * numbers[4] - 1)),
        flipped=bool(numbers[5] < DATA.mirrored),
        left=room * (2 * numbers[6] - 1),
        top=room * (2 * numbers[7] - 1),
    )


@cache
def sticker(noun: str) -> Image.Image:
    """The glyph of a noun with a white border, cropped."""
    font = ImageFont.truetype(DATA.font, 109)
    page = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(page).text((30, 30), NOUNS[noun], font=font, embedded_color=True)
    alpha = page.getchannel("A").filter(ImageFilter.MaxFilter(2 * DATA.border + 1))
    alpha = alpha.filter(ImageFilter.GaussianBlur(1.5))
    white = Image.merge("RGBA", [Image.new("L", page.size, 255)] * 3 + [alpha])
    bordered = Image.alpha_composite(white, page)
    return bordered.crop(bordered.getbbox())


@cache
def scale_sticker(noun: str, side: int) -> Tensor:
    """The sticker with its longer side scaled to `side`, centered: (4, H, W) bytes, color premultiplied by alpha."""
    glyph = sticker(noun)
    factor = side / max(glyph.size)
    width, height = (max(1, round(length * factor)) for length in glyph.size)
    glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (DATA.size, DATA.size), (0, 0, 0, 0))
    square.paste(glyph, ((DATA.size - width) // 2, (DATA.size - height) // 2))
    return torch.from_numpy(np.array(square.convert("RGBa")).reshape(DATA.size, DATA.size, 4)).permute(2, 0, 1)


def render(scenes: list[Scene]) -> Tensor:
    """The images, (N, 3, H, W) in [-1, 1]."""
    glyphs = torch.stack([scale_sticker(p.noun, p.side) for p in scenes]).float().div_(255)
    half = DATA.size / 2
    rows = []
    for p in scenes:
        c, s, f = math.cos(p.tilt), math.sin(p.tilt), -1.0 if p.flipped else 1.0
        x, y = -p.left / half, -p.top / half
        rows.append([[f * c, f * s, f * (c * x + s * y)], [-s, c, c * y - s * x]])
    grid = F.affine_grid(torch.tensor(rows, dtype=torch.float32), list(glyphs.shape), align_corners=False)
    glyphs = F.grid_sample(glyphs, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp_(0, 1)
    background = torch.tensor([p.background for p in scenes]).float().div_(255)[:, :, None, None]
    pixels = glyphs[:, :3] + (1 - glyphs[:, 3:]) * background
    return pixels.clamp_(0, 1).mul_(2).sub_(1)


def batch(stream: str, first: int, count: int, nouns: tuple[str, ...]) -> tuple[Tensor, list[Scene]]:
    """Images `first` to `first + count - 1` of a stream, (count, 3, H, W) in [-1, 1], and what they show."""
    scenes = [describe(stream, index, nouns) for index in range(first, first + count)]
    return render(scenes), scenes


def sheet(images: Tensor, columns: int, magnify: int = 2) -> Image.Image:
    """A contact sheet of images (N, 3, H, W) in [-1, 1]."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    page = torch.ones(3, rows * (height + 2), columns * (width + 2))
    for n, image in enumerate(images):
        top, left = n // columns * (height + 2), n % columns * (width + 2)
        page[:, top : top + height, left : left + width] = image.detach().float().clamp(-1, 1)
    array = page.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    return image.resize((image.width * magnify, image.height * magnify), Image.Resampling.NEAREST)
