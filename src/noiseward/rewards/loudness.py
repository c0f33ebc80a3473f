r"""How loud sound is: the level of its mean square, in decibels of full scale.

.. math:: L = 10 \log_{10} \left( \operatorname{mean} x^2 + 10^{-10} \right)

over times and channels of waveforms in [-1, 1]. A square wave at full scale has 0 dB, a sine -3 dB, and silence -100
dB, with a gradient of zero. It is the level alone: LUFS (ITU-R BS.1770) also filters for the ear, adds channels up
instead of averaging, and leaves pauses out.
"""

from __future__ import annotations

from torch import Tensor

from noiseward.errors import RewardError
from noiseward.rewards.preprocess import widen
from noiseward.rewards.reward import FunctionReward

__all__ = ["loudness"]

SILENCE = 1e-10  # mean square at which the level ends, -100 dB


def loudness() -> FunctionReward:
    """The level of sound, in dB of full scale; for a level to keep to, shape it: `loudness:clamp=-20`.

    Example:
        >>> import torch
        >>> time = torch.arange(16_000) / 16_000
        >>> tone = torch.sin(2 * torch.pi * 440 * time)
        >>> round(loudness()(tone[None], None).item(), 2), round(loudness()(0.1 * tone[None], None).item(), 2)
        (-3.01, -23.01)
    """

    def level(sample: Tensor) -> Tensor:
        if sample.ndim not in (2, 3):
            raise RewardError(f"expected sound (B, T) or (B, C, T), got samples of shape {tuple(sample.shape)}")
        power = widen(sample).flatten(1).square().mean(1)
        return (10 * (power + SILENCE).log10()).to(sample.dtype)

    return FunctionReward(level, name="loudness", statistic=True)
