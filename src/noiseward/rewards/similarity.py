r"""Similarity to an image: the cosine of two images' vectors under a CLIP or a DINOv2,
:math:`\langle f(x), f(y) \rangle`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.images import read_image, turn_upright
from noiseward.rewards.dino import DinoEncoder, read_kind
from noiseward.rewards.dual_encoder import DualEncoder, load_clip
from noiseward.rewards.hub import find_model
from noiseward.rewards.repos import clip_repo, dino_repo
from noiseward.rewards.reward import Reward

__all__ = ["Similarity", "read_reference", "similarity"]


@final
class Similarity(Reward):
    """The similarity of an image to a reference, from -1 to 1; the prompt does not matter.

    Arguments:
        encoder: whose vectors are compared.
        reference: `(1, 3, H, W)` in [0, 1], of any size.
    """

    differentiable = True
    name = "similarity"

    def __init__(self, encoder: DualEncoder | DinoEncoder, reference: Tensor) -> None:
        self.encoder = encoder
        with torch.no_grad():
            self._reference = encoder.encode_images(reference)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return (self.encoder.encode_images(sample) * self._reference.to(sample)).sum(1)


def read_reference(path: str | Path, name: str = "similarity:path") -> Tensor:
    """Read an image file as `(1, 3, H, W)` in [0, 1], on white where it is transparent; `name` is for messages.

    Raises:
        ArgumentError: it is missing, or no image.
    """
    import numpy
    from PIL import Image

    image = read_image(os.path.expanduser(path), name, lambda raw: turn_upright(raw).convert("RGBA"))
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return torch.from_numpy(numpy.array(flat)).permute(2, 0, 1)[None].float() / 255


def load_encoder(model: str) -> DualEncoder | DinoEncoder:
    """Load what compares images: a DINOv2, or a CLIP."""
    if model == "stickers":
        return load_clip(model, "similarity")
    repo = dino_repo(model) if "dino" in model else clip_repo(model)
    folder = find_model(model, repo, "similarity")
    return DinoEncoder.load(folder) if read_kind(folder).startswith("dinov2") else load_clip(model, "similarity")


def similarity(path: str = "", *, model: str = "openai/clip-vit-large-patch14") -> Similarity:
    """Similarity to an image.

    Arguments:
        path: the image's file.
        model: a CLIP's or a DINOv2's hub id or folder, or `stickers`.
    """
    if not path:
        raise ArgumentError("reward 'similarity' needs an image: give one, as in similarity:path=image.png")
    reference = read_reference(path)
    return Similarity(load_encoder(model), reference)
