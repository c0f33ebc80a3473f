r"""Similarity to a picture: the cosine of two pictures' vectors under a CLIP, :math:`\langle f(x), f(y) \rangle`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.images import read_image, turn_upright
from noiseward.rewards.dual_encoder import DualEncoder, clip_folder
from noiseward.rewards.dual_encoder import repos as clip_repos
from noiseward.rewards.reward import Reward
from noiseward.rewards.weights import Repo

__all__ = ["Similarity", "read_picture", "similarity", "repos"]


@final
class Similarity(Reward):
    """How much a picture is like a reference, from -1 to 1; the prompt does not matter.

    Arguments:
        encoder: whose vectors are compared.
        reference: `(1, 3, H, W)` in [0, 1], of any size.
    """

    differentiable = True
    name = "similarity"

    def __init__(self, encoder: DualEncoder, reference: Tensor) -> None:
        self.encoder = encoder
        with torch.no_grad():
            self._reference = encoder.pictures(reference)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return (self.encoder.pictures(sample) * self._reference.to(sample)).sum(1)


def read_picture(path: str | Path) -> Tensor:
    """A picture's file as `(1, 3, H, W)` in [0, 1]; what is transparent in it becomes white.

    Raises:
        ArgumentError: it is missing, or no picture.
    """
    import numpy
    from PIL import Image

    picture = read_image(os.path.expanduser(path), "similarity:path", lambda given: turn_upright(given).convert("RGBA"))
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return torch.from_numpy(numpy.array(flat)).permute(2, 0, 1)[None].float() / 255


def repos(path: str = "", *, model: str = "openai/clip-vit-large-patch14") -> tuple[Repo, ...]:
    """What `similarity` takes from the hub."""
    return clip_repos(model)


def similarity(path: str = "", *, model: str = "openai/clip-vit-large-patch14") -> Similarity:
    """Similarity to a picture.

    Arguments:
        path: the picture's file.
        model: a CLIP's hub id or folder, or `stickers`.
    """
    if not path:
        raise ArgumentError("reward 'similarity' lacks a picture: give one, as in similarity:path=picture.png")
    reference = read_picture(path)
    return Similarity(DualEncoder.load(clip_folder(model, "similarity"), name="clip"), reference)
