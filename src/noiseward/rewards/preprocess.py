r"""What vision models want to see: resized, cropped and normalized pictures, as torch code that keeps the graph.

The official processors work on 8-bit pictures outside torch. Here the same steps are differentiable: bicubic (or
bilinear) resizing with antialiasing, a center crop, and :math:`(x - \mu) / \sigma` per channel. What is left of a
difference is the rounding to 8 bits that the official ones do in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.errors import ModelError, RewardError

__all__ = ["Preprocess"]

MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Pictures `(B, 3, H, W)` in [0, 1] to what a vision model takes, `(B, 3, *crop)`.

    Arguments:
        shorter: what the shorter side is resized to; None to resize both sides to `crop`, whatever the shape was.
        crop: height and width of the center crop.
        mean, std: per channel.
        mode: `bicubic` or `bilinear`.

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

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise RewardError(
                f"samples of shape {tuple(images.shape)} given: this reward looks at pictures (B, 3, H, W) in [0, 1]"
            )
        mean, std = (
            torch.tensor(part, dtype=images.dtype, device=images.device)[:, None, None]
            for part in (self.mean, self.std)
        )
        return (self._cropped(self._resized(images)) - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.shorter is None:
            size = self.crop
        elif height <= width:
            size = (self.shorter, int(self.shorter * width / height))
        else:
            size = (int(self.shorter * height / width), self.shorter)
        if size == (height, width):
            return images
        return F.interpolate(images, size, mode=self.mode, antialias=True, align_corners=False).clamp(0, 1)

    def _cropped(self, images: Tensor) -> Tensor:
        (height, width), (tall, wide) = images.shape[2:], self.crop
        top, left = (height - tall) // 2, (width - wide) // 2
        return images[:, :, top : top + tall, left : left + wide]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Preprocess:
        """The preprocessing that an image processor's configuration describes.

        Raises:
            ModelError: it asks for something that is not known here.
        """
        size, crop = config.get("size") or {}, config.get("crop_size") or {}
        shorter = size.get("shortest_edge")
        final = crop if config.get("do_center_crop", False) else size
        height, width = final.get("height"), final.get("width")
        mode = MODES.get(config.get("resample", 3))
        squeezed = shorter is not None or (size.get("height"), size.get("width")) == (height, width)
        if height is None or width is None or mode is None or not squeezed:
            raise ModelError(
                f"image processor with size {size}, crop {crop}, resample {config.get('resample')}: a shortest edge "
                "and a center crop, or one height and width, bilinear or bicubic, are known here"
            )
        mean, std = (tuple(float(one) for one in config[key]) for key in ("image_mean", "image_std"))
        return cls(shorter, (int(height), int(width)), mean, std, mode)
