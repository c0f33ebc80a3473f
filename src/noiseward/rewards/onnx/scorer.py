r"""Any image scorer in ONNX as a reward.

The image is resized to the size that the file declares, scaled and normalized, :math:`(k x - \mu) / \sigma`, and laid
out as the file's input is, channels first or last. The score is the model's first output: one number per image, or one
of several. Where the file converts to torch (`convert.py`), gradients flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.errors import ArgumentError, RewardError
from noiseward.rewards.onnx.model import OnnxModel
from noiseward.rewards.preprocess import check_images, widen
from noiseward.rewards.reward import Reward

__all__ = ["OnnxScorer", "onnx"]


@final
class OnnxScorer(Reward):
    """A score by an ONNX model.

    Arguments:
        model: the model.
        size: height and width of its input; None for images as they are.
        mean, std: per channel, or one for all.
        scale: k.
        bgr: whether its channels are blue, green, red.
        index: which number of its output; None where it has one.
        name: in tables and logs.
    """

    def __init__(
        self,
        model: OnnxModel,
        *,
        size: tuple[int, int] | None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        scale: float = 1.0,
        bgr: bool = False,
        index: int | None = None,
        name: str = "onnx",
    ) -> None:
        self.model, self.name, self.differentiable = model, name, model.differentiable
        self.size, self.scale, self.bgr, self.index = size, scale, bgr, index
        self.mean, self.std = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 1) for part in (mean, std))
        self._is_last = model.shape[-1] == 3 and model.shape[1] != 3

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = check_images(widen(sample))
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        images = images.flip(1) if self.bgr else images
        values = (self.scale * images - self.mean.to(images)) / self.std.to(images)
        found = self.model(values.permute(0, 2, 3, 1) if self._is_last else values)
        return self._choose(found, len(sample)).to(sample)

    def _choose(self, found: Tensor, rows: int) -> Tensor:
        flat = found.reshape(rows, -1) if found.numel() % rows == 0 and found.shape[:1] == (rows,) else None
        if flat is None:
            raise RewardError(
                f"{self.model.path} must give each image its numbers, got shape {tuple(found.shape)} for {rows} images"
            )
        if flat.shape[1] > 1 and self.index is None:
            raise RewardError(f"{self.model.path} gives {flat.shape[1]} numbers per image; name one with index=")
        if self.index is not None and not -flat.shape[1] <= self.index < flat.shape[1]:
            raise RewardError(f"index must be below {flat.shape[1]}, the numbers per image, got {self.index}")
        return flat[:, self.index or 0]


def onnx(
    path: str = "", *, size: int = 0, mean: str = "0", std: str = "1", scale: float = 1.0, bgr: bool = False,
    index: int | None = None, gradient: str = "auto",
) -> OnnxScorer:  # fmt: skip
    """A score by an ONNX model of one's own.

    Arguments:
        path: the file.
        size: side of its input; default: what the file declares, else images as they are.
        mean, std: one number, or one per channel, as in `mean="0.485,0.456,0.406"`.
        scale: of the pixels before that, 255 for a model that takes levels.
        bgr: whether its channels are blue, green, red.
        index: which number of its output, where it has several.
        gradient: auto, yes, or no.
    """
    if not path:
        raise ArgumentError("reward 'onnx' needs a file, as in onnx:path=model.onnx,size=224")
    model = OnnxModel(Path(path).expanduser(), gradient=gradient, name="onnx", side=size)
    if len(model.shape) != 4 or 3 not in (model.shape[1], model.shape[-1], None):
        raise ArgumentError(f"expected {path} to take images (N, 3, H, W) or (N, H, W, 3), got {list(model.shape)}")
    sides = model.shape[1:3] if model.shape[-1] == 3 and model.shape[1] != 3 else model.shape[2:]
    declared = (sides[0], sides[1]) if isinstance(sides[0], int) and isinstance(sides[1], int) else None
    return OnnxScorer(
        model, size=declared or ((size, size) if size else None), mean=_read_numbers(mean, "mean"),
        std=_read_numbers(std, "std"), scale=scale, bgr=bgr, index=index,
    )  # fmt: skip


def _read_numbers(text: str, name: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in (1, 3):
        raise ArgumentError(f"{name} must be one number or three, as in {name}=\"0.485,0.456,0.406\", got '{text}'")
    return found
