"""Rewards of a user's own, as a file: `--reward experiments/gallery/rewards.py:greenness`."""

from __future__ import annotations

from torch import Tensor


def left(sample: Tensor) -> Tensor:
    """The left half as bright, and the right half as dark, as can be."""
    half = sample.shape[-1] // 2
    return sample[..., :half].mean((1, 2, 3)) - sample[..., half:].mean((1, 2, 3))


def greenness(sample: Tensor) -> Tensor:
    """How much greener than red and blue."""
    return (sample[:, 1] - (sample[:, 0] + sample[:, 2]) / 2).mean((1, 2))
