"""The held-out judge of the built-in model: is it the noun that was asked for, on the background that was asked for?

The judge is a CLIP model trained on images of its own; it is never optimized. A noun is right when the judge
prefers it to 31 others, drawn at random (the same ones for a noun every time); a background, when the median color of
the image's border is nearest to the named one of the 12. Where the judge is not installed, nouns go unjudged.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Literal

import torch
from torch import Tensor

from noiseward import stickers
from noiseward.rewards.dual_encoder import DualEncoder
from training.words import COLORS, caption

AMONG = 32


def is_installed() -> bool:
    """Whether the judge is here."""
    return (stickers.path("judge") / "config.json").exists()


@cache
def model(name: Literal["judge", "clip"]) -> DualEncoder:
    """The judge, or the other CLIP, loaded once."""
    return DualEncoder.load(stickers.path(name), name=name)


@torch.no_grad()
def right_noun(images: Tensor, nouns: list[str], by: Literal["judge", "clip"] = "judge") -> list[float]:
    """1 where the judge finds the noun in an image of `(B, 3, H, W)` in [0, 1], else 0."""
    known = list(stickers.nouns())
    scores = model(by).encode_images(images.cpu().float()) @ model(by).encode_texts([caption(noun) for noun in known]).T
    right = []
    for row, noun in zip(scores, nouns, strict=True):
        others = Random(noun).sample([other for other in known if other != noun], min(AMONG, len(known)) - 1)
        right.append(float(row[known.index(noun)] > row[[known.index(other) for other in others]].max()))
    return right


def judge_nouns(images: Tensor, nouns: list[str]) -> list[float] | None:
    """`right_noun`, or None without a judge."""
    return right_noun(images, nouns) if is_installed() else None


@torch.no_grad()
def right_background(images: Tensor, colors: list[str]) -> list[float]:
    """1 where the border of an image has the color that was named, else 0."""
    edges = [images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]]
    border = torch.cat(edges, -1).cpu().median(-1).values * 255
    nearest = torch.cdist(border.float(), torch.tensor(list(COLORS.values())).float()).argmin(1)
    return [float(list(COLORS)[n] == color) for n, color in zip(nearest.tolist(), colors, strict=True)]
