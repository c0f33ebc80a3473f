r"""Rewards made of rewards: averaged over crops, or clamped at a target.

Optimized without a limit, most rewards end in images that please the reward alone. Two known remedies are wrappers
here: the mean over random **cutouts** is harder to please by a pattern of pixels, and a reward **clamped** at a target
has no gradient once it is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, RewardError, shorten
from noiseward.rewards.reward import Reward, score

__all__ = ["Augmented", "Clamped"]

MOST = 4096  # cutouts


@final
class Augmented(Reward):
    r"""The mean of a reward over square crops, :math:`\frac{1}{n} \sum_k r(\mathrm{crop}_k(x), c)`.

    The crops are drawn once, from the seed, and are the same for every row and at every call: the reward stays a
    function. It costs as much as the reward on that many images.

    Arguments:
        reward: of images, of several sizes.
        cutouts: number of crops.
        least: the smallest crop's side, as a part of the image's shorter side.
        seed: of the crops.

    References:
        CLIP-guided diffusion's cutouts, as in End-to-End Diffusion Latent Optimization Improves Classifier Guidance
        https://arxiv.org/abs/2303.13703

    Example:
        >>> from noiseward.rewards.reward import FunctionReward
        >>> bright = FunctionReward(lambda x: x.mean((1, 2, 3)), name="bright")
        >>> Augmented(bright, cutouts=4)(torch.ones(2, 3, 16, 16), None).tolist()
        [1.0, 1.0]
    """

    def __init__(self, reward: Reward, *, cutouts: int = 16, least: float = 0.5, seed: int = 0) -> None:
        if cutouts < 1:
            raise ArgumentError(f"cutouts must be >= 1, got {cutouts}")
        if cutouts > MOST:
            got = shorten(str(cutouts), 40)
            raise ArgumentError(f"cutouts must be <= {MOST:,}, got {got}: each costs a call of the reward")
        if not 0 < least <= 1:
            raise ArgumentError(f"least must be a part of the shorter side, in (0, 1], got {least}")
        self.reward, self.name, self.differentiable = reward, reward.name, reward.differentiable
        self.statistic = reward.statistic
        drawn = torch.rand(cutouts, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self._crops = [(least + (1 - least) * size, top, left) for size, top, left in drawn.tolist()]

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        if sample.ndim != 4:
            raise RewardError(f"cutouts need images (B, 3, H, W), got samples of shape {tuple(sample.shape)}")
        height, width = sample.shape[2:]
        scores = []
        for part, down, right in self._crops:
            side = max(1, round(part * min(height, width)))
            top, left = round(down * (height - side)), round(right * (width - side))
            crop = sample[:, :, top : top + side, left : left + side]
            scores.append(score(self.reward, crop, prompt)[0])
        return torch.stack(scores).mean(0)


@final
class Clamped(Reward):
    r"""A reward that stops growing at a target, :math:`\min(r(x, c), t)`: from there on it has no gradient.

    In a `WeightedSum` the other rewards then act alone. To stop a row altogether, give the run a target instead.

    Arguments:
        reward: to clamp.
        target: t.

    Example:
        >>> from noiseward.rewards.reward import FunctionReward
        >>> bright = FunctionReward(lambda x: x.mean((1, 2, 3)), name="bright")
        >>> Clamped(bright, target=0.75)(torch.tensor([0.5, 1.0]).view(2, 1, 1, 1), None).tolist()
        [0.5, 0.75]
    """

    def __init__(self, reward: Reward, *, target: float) -> None:
        if not math.isfinite(target):
            raise ArgumentError(f"target must be finite, got {target}")
        self.reward, self.target = reward, target
        self.name, self.differentiable, self.statistic = reward.name, reward.differentiable, reward.statistic

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return score(self.reward, sample, prompt)[0].clamp(max=self.target)
