r"""Regularizers: how implausible some noise is. Zero at its most plausible, subtracted from the reward.

Ascent may push the noise where no Gaussian would be, and the sample with it out of the model's distribution. The paper
notices that with two concentration inequalities, :math:`p_1(M_1)` on the mean and :math:`p_2(M_2)` on the covariance of
the noise cut into blocks, in the order given and in random other orders (`concentration.py`):

* :func:`probability`, the paper's P(z), is the smallest of these bounds;
* :class:`Concentration` is the mean of :math:`-(\log p_1 + \log p_2)`.

Draws that do not move are left out of both.
"""

from __future__ import annotations

import abc
import math
from typing import final

import torch
from torch import Tensor

from noiseward.concentration import bounds
from noiseward.errors import ArgumentError
from noiseward.noise import Layout
from noiseward.orders import Family

__all__ = ["Concentration", "NoRegularizer", "Regularizer", "probability"]


class Regularizer(abc.ABC):
    """A penalty on noise: a pure function, one number per row, zero at its most plausible."""

    @abc.abstractmethod
    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        """The penalty `(B,)` of noise `(B, *noise_shape)` of that layout."""


@final
class NoRegularizer(Regularizer):
    """No penalty."""

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        return noise.new_zeros(noise.shape[0])


@final
class Concentration(Regularizer):
    r"""The paper's probability regularization.

    .. math:: \rho(z) = \gamma \, \mathbb{E}_\Pi [-\log p_1(M_1(\Pi z)) - \log p_2(M_2(\Pi z))]

    where the mean is over the order given and `permutations` fixed other orders. It and its gradient are exactly
    zero wherever both bounds are 1.

    Arguments:
        weight: :math:`\gamma`, at least 0.
        block: k, elements per block; it must divide the number of live elements of a row.
        permutations: how many other orders join the one given.
        family: which, see `concentration.py`.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> import torch
        >>> from noiseward.noise import Draw, Layout
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"),))
        >>> z = layout.fresh([0])
        >>> bool(Concentration(1.0)(z, layout) < 0.1 < Concentration(1.0)(1.5 * z, layout))
        True
    """

    def __init__(
        self, weight: float = 1.0, *, block: int = 4, permutations: int = 100, family: Family = "strided"
    ) -> None:
        if not weight >= 0:
            raise ArgumentError(f"regularizer weight {weight} given: at least 0 wanted")
        self.weight, self.block, self.permutations = weight, block, permutations
        self.family: Family = family

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        log1, log2 = bounds(layout.live(noise), block=self.block, permutations=self.permutations, family=self.family)
        return -self.weight * (log1 + log2).mean(1)


def probability(noise: Tensor, layout: Layout | None = None, *, block: int = 4, permutations: int = 100) -> Tensor:
    """The paper's P(z): the smallest bound met, over both tests and all permutations.

    Fresh noise gives about 0.1 to 0.8; values near 0 are noise no Gaussian would give.

    Arguments:
        noise: `(B, *noise_shape)`.
        layout: its layout; without it every element counts. Only draws that move are tested.
        block: elements per block; a smaller one is taken when it does not divide their number.
        permutations: how many other orders join the one given.

    Returns:
        `(B,)` in [0, 1].
    """
    with torch.no_grad():
        flat = noise.flatten(1) if layout is None else layout.live(noise)
        block = math.gcd(block, flat.shape[1])
        log1, log2 = bounds(flat, block=block, permutations=permutations)
        return torch.minimum(log1, log2).amin(1).exp()
