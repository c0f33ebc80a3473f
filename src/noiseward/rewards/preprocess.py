r"""The input of vision models: resized, cropped and normalized images, as torch code that keeps the graph.

The official processors work on 8-bit images outside torch. Here the same steps are differentiable: bicubic (or
bilinear) resizing with antialiasing, a center crop, and :math:`(x - \mu) / \sigma` per channel. The only difference
is the rounding to 8 bits that the official ones do in between (`tests/test_zoo.py` bounds it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.errors import ModelError, RewardError

__all__ = ["CLIP_MEAN", "CLIP_STD", "Preprocess", "check_images", "widen"]

MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SLACK = 0.5  # by how much an image may leave [0, 1] before it is taken for one in another range


def check_images(images: Tensor) -> Tensor:
    """Check that samples are images `(B, 3, H, W)` in [0, 1], and clamp what a decoder puts a little beyond.

    Raises:
        RewardError: another shape, number of channels or range.

    Example:
        >>> check_images(torch.full((1, 3, 8, 8), 255.0))
        Traceback (most recent call last):
        ...
        noiseward.errors.RewardError: expected images in [0, 1], got samples from 255 to 255; divide by 255
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3:
        cure = {
            1: "; repeat the one channel, images.expand(-1, 3, -1, -1)",
            4: "; drop the alpha channel, images[:, :3]",
        }
        channels = cure.get(shape[1], "") if len(shape) == 4 else ""
        raise RewardError(f"expected images (B, 3, H, W) in [0, 1], got samples of shape {shape}{channels}")
    low, high = (bound.item() for bound in images.detach().aminmax()) if images.numel() else (0.0, 0.0)
    if low < -SLACK or high > 1 + SLACK:
        cure = "divide by 255" if high > 2 else "map them with (x + 1) / 2" if low >= -1 - SLACK else "rescale them"
        raise RewardError(f"expected images in [0, 1], got samples from {low:.3g} to {high:.3g}; {cure}")
    return images.clamp(0, 1) if low < 0 or high > 1 else images


def widen(sample: Tensor) -> Tensor:
    """A sample in float32, or in float64 where it is."""
    return sample if sample.dtype == torch.float64 else sample.float()


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Converts images `(B, 3, H, W)` in [0, 1] to a vision model's input, `(B, 3, *crop)`.

    Arguments:
        shorter: new length of the shorter side; None to resize both sides to `crop`, whatever the shape.
        crop: height and width of the center crop.
        mean, std: per channel.
        mode: `bicubic` or `bilinear`.
        rounded: where a side leaves an odd number of pixels to crop, round half of it as torchvision does; otherwise
            down, as transformers does.
        padded: resize the longer side to `crop` and pad with black instead of cropping.

    Example:
        >>> prepare = Preprocess(shorter=224, crop=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> prepare(torch.ones(2, 3, 64, 96)).shape
        torch.Size([2, 3, 224, 224])
    """

    shorter: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"
    rounded: bool = False
    padded: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        images = check_images(images)
        mean, std = (
            torch.tensor(part, dtype=images.dtype, device=images.device)[:, None, None]
            for part in (self.mean, self.std)
        )
        sized = self._pad(images) if self.padded else self._crop(self._resize(images))
        return (sized - mean) / std

    def _resize(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.shorter is None:
            size = self.crop
        elif height <= width:
            size = (self.shorter, int(self.shorter * width / height))
        else:
            size = (int(self.shorter * height / width), self.shorter)
        return self._interpolate(images, size).clamp(0, 1)

    def _interpolate(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if size == tuple(images.shape[2:]):
            return images
        return F.interpolate(images, size, mode=self.mode, antialias=True, align_corners=False)

    def _crop(self, images: Tensor) -> Tensor:
        (height, width), (tall, wide) = images.shape[2:], self.crop
        top, left = ((round(rest / 2) if self.rounded else rest // 2) for rest in (height - tall, width - wide))
        return images[:, :, top : top + tall, left : left + wide]

    def _pad(self, images: Tensor) -> Tensor:
        (height, width), side = images.shape[2:], self.crop[0]
        tall, wide = (round(part * side / max(height, width)) for part in (height, width))
        down, right = side - tall, side - wide
        frame = (right // 2, right - right // 2, down // 2, down - down // 2)
        return F.pad(self._interpolate(images, (tall, wide)), frame)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Preprocess:
        """The preprocessing that an image processor's configuration describes.

        Raises:
            ModelError: it needs something that is not supported here.
        """
        size, crop = config.get("size") or {}, config.get("crop_size") or {}
        shorter = size.get("shortest_edge")
        final = crop if config.get("do_center_crop", False) else size
        height, width = final.get("height"), final.get("width")
        mode = MODES.get(config.get("resample", 3))
        is_supported = shorter is not None or (size.get("height"), size.get("width")) == (height, width)
        if height is None or width is None or mode is None or not is_supported:
            raise ModelError(
                "expected an image processor with a shortest edge and a center crop, or one height and width, bilinear "
                f"or bicubic, got size {size}, crop {crop}, resample {config.get('resample')}"
            )
        mean, std = (tuple(float(one) for one in config[key]) for key in ("image_mean", "image_std"))
        return cls(shorter, (int(height), int(width)), mean, std, mode)
