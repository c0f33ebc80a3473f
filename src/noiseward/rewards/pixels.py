"""Rewards that are arithmetic on pixels: images `(B, 3, H, W)` in [0, 1] in, `(B,)` out."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from noiseward.errors import RewardError
from noiseward.reward import FunctionReward

__all__ = ["brightness", "contrast", "darkness", "jpeg"]

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def brightness() -> FunctionReward:
    """The mean of all pixels, 0 for black, 1 for white.

    Example:
        >>> brightness()(torch.full((1, 3, 8, 8), 0.25), None).tolist()
        [0.25]
    """
    return FunctionReward(lambda images: _pictures(images).mean((1, 2, 3)), name="brightness")


def darkness() -> FunctionReward:
    """One minus the brightness.

    Example:
        >>> darkness()(torch.full((1, 3, 8, 8), 0.25), None).tolist()
        [0.75]
    """
    return FunctionReward(lambda images: 1 - _pictures(images).mean((1, 2, 3)), name="darkness")


def contrast() -> FunctionReward:
    """The standard deviation of the luminance over the picture, at most 0.5.

    Its gradient is zero, not infinite, on a picture of one color.

    Example:
        >>> halves = torch.zeros(1, 3, 8, 8)
        >>> halves[..., 4:] = 1
        >>> round(contrast()(halves, None).item(), 6)
        0.5
    """

    def deviation(images: Tensor) -> Tensor:
        weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device)
        luminance = torch.einsum("bchw,c->bhw", _pictures(images), weights).flatten(1)
        variance = luminance.var(dim=1, correction=0)
        flat = variance <= torch.finfo(variance.dtype).eps ** 2
        return torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt())

    return FunctionReward(deviation, name="contrast")


def jpeg() -> FunctionReward:
    """Compressibility: the negative size in kB (1000 bytes) of each picture as a quality-95 JPEG. A black box.

    Example:
        >>> flat, noisy = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64)
        >>> bool(jpeg()(flat, None) > jpeg()(noisy, None))
        True
    """

    def size(images: Tensor) -> Tensor:
        from noiseward.pictures import images as to_pictures

        sizes = []
        for picture in to_pictures(_pictures(images)):
            file = io.BytesIO()
            picture.save(file, format="JPEG", quality=95)
            sizes.append(-file.tell() / 1000)
        return torch.tensor(sizes, device=images.device)

    return FunctionReward(size, differentiable=False, name="jpeg")


def _pictures(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3:
        raise RewardError(
            f"samples of shape {tuple(images.shape)} given: this reward looks at pictures (B, 3, H, W) in [0, 1]"
        )
    return images
