r"""Regularizers: how implausible some noise is. Zero at its most plausible, subtracted from the reward.

Ascent may push the noise where no Gaussian would be, and the sample with it out of the model's distribution. The paper
notices that with two concentration inequalities. Cut the n live elements of a row into m blocks
:math:`z^1, \dots, z^m \in \mathbb{R}^k`, and let

.. math::
    M_1(z) = \Big\| \tfrac1m \sum_i z^i \Big\|_2, \qquad
    M_2(z) = \Big\| \tfrac1m \sum_i z^i {z^i}^\top - I_k \Big\|_2 .

For Gaussian z (Wainwright, 2019)

.. math::
    \Pr[M_1 > M] &\le p_1(M) = \min\{1, 2 e^{-m M^2 / 2k}\}, \\
    \Pr[M_2 > M] &\le p_2(M) = \min\{1, 2 e^{-\frac m2 \max\{\sqrt{1+M} - 1 - \sqrt{k/m},\, 0\}^2}\} .

A permutation of Gaussian noise is Gaussian noise, while structured noise may pass the test in one order and fail it in
another, so both are taken over the identity and random permutations: :func:`probability` is the smallest bound met,
:class:`Concentration` the mean of :math:`-(\log p_1 + \log p_2)`. Draws that do not move are left out of both.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.noise import Layout

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

    where the mean is over the identity and `permutations` fixed random permutations. It and its gradient are exactly
    zero wherever both bounds are 1.

    Arguments:
        weight: :math:`\gamma`, at least 0.
        block: k, elements per block; it must divide the number of live elements of a row.
        permutations: how many random permutations join the identity.

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

    def __init__(self, weight: float = 1.0, *, block: int = 4, permutations: int = 100) -> None:
        if not weight >= 0:
            raise ArgumentError(f"regularizer weight {weight} given: at least 0 wanted")
        self.weight, self.block, self.permutations = weight, block, permutations

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        log1, log2 = bounds(layout.live(noise), block=self.block, permutations=self.permutations)
        return -self.weight * (log1 + log2).mean(1)


def probability(noise: Tensor, layout: Layout | None = None, *, block: int = 4, permutations: int = 100) -> Tensor:
    """The paper's P(z): the smallest bound met, over both tests and all permutations.

    Fresh noise gives about 0.1 to 0.8; values near 0 are noise no Gaussian would give.

    Arguments:
        noise: `(B, *noise_shape)`.
        layout: its layout; without it every element counts. Only draws that move are tested.
        block: elements per block; a smaller one is taken when it does not divide their number.
        permutations: how many random permutations join the identity.

    Returns:
        `(B,)` in [0, 1].
    """
    with torch.no_grad():
        flat = noise.flatten(1) if layout is None else layout.live(noise)
        block = math.gcd(block, flat.shape[1])
        log1, log2 = bounds(flat, block=block, permutations=permutations)
        return torch.minimum(log1, log2).amin(1).exp()


def bounds(flat: Tensor, *, block: int, permutations: int) -> tuple[Tensor, Tensor]:
    """log p1 and log p2 of rows `(B, n)` under the identity and each permutation: two `(B, 1 + permutations)`."""
    rows, size = flat.shape
    if block < 1 or size % block:
        allowed = [k for k in (1, 2, 3, 4, 5, 6, 8, 16, 32) if size % k == 0]
        raise ArgumentError(
            f"blocks of {block} given: they must divide the {size} live elements of a row, as {allowed} do"
        )
    count = size // block
    means, grams = [], []
    for order in orders(size, permutations, flat.device).split(max(1, 2**24 // (rows * size))):
        blocks = flat[:, order].unflatten(2, (count, block))
        means.append(blocks.mean(2))
        grams.append(blocks.transpose(2, 3) @ blocks / count)
    gram = torch.cat(grams, 1) - torch.eye(block, dtype=flat.dtype, device=flat.device)
    broken = ~gram.isfinite().flatten(2).all(2)  # not a number, or too large to be squared: as implausible as can be
    norm1 = torch.cat(means, 1).norm(dim=2).masked_fill(broken, torch.inf)
    spectrum = torch.linalg.eigvalsh(gram.masked_fill(broken[:, :, None, None], 0)).abs()
    norm2 = spectrum.amax(2).masked_fill(broken, torch.inf)
    log1 = math.log(2) - count / (2 * block) * norm1.square()
    excess = (torch.sqrt(1 + norm2) - 1 - math.sqrt(block / count)).clamp(min=0)
    log2 = math.log(2) - count / 2 * excess.square()
    return log1.clamp(max=0), log2.clamp(max=0)


@functools.lru_cache(maxsize=4)
def orders(size: int, permutations: int, device: torch.device) -> Tensor:
    """The identity and `permutations` random orders, always the same ones: `(1 + permutations, size)`."""
    generator = torch.Generator().manual_seed(0)
    rest = [torch.randperm(size, generator=generator) for _ in range(permutations)]
    return torch.stack([torch.arange(size), *rest]).to(device)
