r"""Regularizers: penalties for implausible noise, subtracted from the reward; zero at the most plausible noise.

Ascent may push the noise to values that are very unlikely under a Gaussian, and with it the sample out of the model's
distribution. The paper measures that with two concentration inequalities, :math:`p_1(M_1)` on the mean and
:math:`p_2(M_2)` on the covariance of the noise cut into blocks, in the given order and after random permutations
(`concentration.py`):

* :func:`probability`, the paper's P(z), is the smallest of these bounds;
* :class:`Concentration` is the mean of :math:`-(\log p_1 + \log p_2)`.

:class:`Shell` is simpler: the norm of each draw alone. Draws that may not change are left out of all of them.

*Adaptive weight.* How strong a penalty must be depends on the reward's scale, which is not known beforehand. A
regularizer with a **minimum probability** :math:`\tau` requires :math:`P(z) \ge \tau` instead: its weight is
multiplied, row by row, by a number :math:`\lambda` that the loop adapts after every step (:func:`adapt_multiplier`),

.. math::
    \lambda \leftarrow \lambda \exp \kappa \, (\log\tau - \log P(z)),
    \qquad \kappa = \tfrac14,

by a factor between 1/2 and 4 at a time, so that it grows while the noise is too implausible and shrinks while there is
room. The result is the highest reward among the steps that meet the minimum.
"""

from __future__ import annotations

import abc
import math
from typing import Literal, final, get_args

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, choices
from noiseward.noise.concentration import log_bounds
from noiseward.noise.layout import Layout
from noiseward.noise.permutations import Family, check_blocks
from noiseward.noise.typicality import strict_probability

__all__ = ["Concentration", "NoRegularizer", "Regularizer", "Shell", "adapt_multiplier", "probability"]

Convention = Literal["paper", "reference"]
PACE = 0.25  # kappa
FACTORS = (0.5, 4.0)  # a weight that is too small lets the noise leave, one that is too large only costs time


class Regularizer(abc.ABC):
    """A penalty on noise: a pure function, one number per row, zero at its most plausible.

    Attributes:
        min_probability: the P(z) to keep, by a weight that the loop adapts; None for a fixed weight.

    Example:
        >>> class Mean(Regularizer):  # Gaussian noise has a mean near 0
        ...     def __call__(self, noise, layout):
        ...         return layout.movable_part(noise).mean(1).square()
        >>> import torch
        >>> from noiseward.noise.layout import Draw
        >>> Mean()(torch.full((1, 1, 4), 2.0), Layout((Draw("start", (4,), "start"),))).tolist()
        [4.0]
    """

    min_probability: float | None = None

    @abc.abstractmethod
    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        """The penalty `(B,)` of noise `(B, *noise_shape)` of that layout."""

    def check(self, layout: Layout) -> None:
        """Raise `ArgumentError` if noise of that layout cannot be judged, before anything is sampled."""
        return


@final
class NoRegularizer(Regularizer):
    """No penalty.

    Example:
        >>> import torch
        >>> from noiseward.noise.layout import Draw
        >>> NoRegularizer()(torch.ones(2, 1, 4), Layout((Draw("start", (4,), "start"),))).tolist()
        [0.0, 0.0]
    """

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        return noise.new_zeros(noise.shape[0])


@final
class Concentration(Regularizer):
    r"""The paper's probability regularization.

    .. math:: \rho(z) = \gamma \, \mathbb{E}_\Pi [-\log p_1(M_1(\Pi z)) - \log p_2(M_2(\Pi z))]

    where the mean is over the identity and `permutations` fixed permutations. It and its gradient are exactly zero
    wherever both bounds are 1.

    Arguments:
        weight: :math:`\gamma`, at least 0; with `min_probability`, where the adapted weight starts.
        min_probability: the P(z) to keep, between 0 and 1. 0.1 is about the 1% quantile of fresh noise.
        block: k, elements per block; it must divide the number of live elements of a row.
        permutations: how many permutations in addition to the identity.
        family: which, see `permutations.py`.
        convention: `paper`, as above; or `reference`, the number the published code gives: the identity counts once in
            addition to the mean over the others, and every :math:`\log p` is :math:`\log 2` lower, so that the most
            plausible noise has :math:`4 \log 2` instead of zero.

    Raises:
        ArgumentError: a weight below 0, a `min_probability` outside (0, 1), or a block that does not divide the noise.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> import torch
        >>> from noiseward.noise.layout import Draw, Layout
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"),))
        >>> z = layout.draw_noise([0])
        >>> bool(Concentration(1.0)(z, layout) < 0.1 < Concentration(1.0)(1.5 * z, layout))
        True
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        min_probability: float | None = None,
        block: int = 4,
        permutations: int = 100,
        family: Family = "strided",
        convention: Convention = "paper",
    ) -> None:
        _check_weight(weight)
        if min_probability is not None and not 0 < min_probability < 1:
            raise ArgumentError(f"min_probability must be between 0 and 1, got {min_probability}; try 0.1")
        if min_probability is not None and weight == 0:
            raise ArgumentError("weight must be > 0 with min_probability, got 0; the weight is adapted from there")
        for name, value, allowed in (("family", family, Family), ("convention", convention, Convention)):
            if value not in get_args(allowed):
                raise ArgumentError(f"unknown {name} '{value}'; {choices(value, get_args(allowed))}")
        if permutations < (least := int(convention == "reference")):
            raise ArgumentError(f"permutations must be >= {least}, got {permutations}")
        self.weight, self.min_probability, self.block, self.permutations = weight, min_probability, block, permutations
        self.family: Family = family
        self.convention = convention

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        live = layout.movable_part(noise)
        log1, log2 = log_bounds(live, block=self.block, permutations=self.permutations, family=self.family)
        surprise = -(log1 + log2)
        if self.convention == "reference":
            return self.weight * (4 * math.log(2) + surprise[:, 0] + surprise[:, 1:].mean(1))
        return self.weight * surprise.mean(1)

    def check(self, layout: Layout) -> None:
        check_blocks(sum(draw.size for draw in layout if draw.movable), self.block)


@final
class Shell(Regularizer):
    r"""Each draw near the shell where Gaussian noise lies: minus the log-density of its norm.

    For a draw of N elements the norm is :math:`\chi_N` distributed, its density largest at :math:`\sqrt{N-1}`:

    .. math:: \rho(z) = \gamma \sum_{\text{draws}} \Big[ \tfrac12 \|z\|^2 - (N-1) \log \|z\| \Big] - \text{its minimum}.

    Arguments:
        weight: :math:`\gamma`, at least 0. 0.01 is ReNO's, for one draw.

    References:
        ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization
        https://arxiv.org/abs/2406.04312

    Example:
        >>> from noiseward.noise.layout import Draw, Layout
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"),))
        >>> z = layout.draw_noise([0])
        >>> [round(Shell(1.0)(scale * z, layout).item(), 1) for scale in (0.5, 1.0, 1.5)]
        [93.0, 0.9, 38.7]
    """

    def __init__(self, weight: float = 0.01) -> None:
        _check_weight(weight)
        self.weight = weight

    def __call__(self, noise: Tensor, layout: Layout) -> Tensor:
        total = noise.new_zeros(noise.shape[0])
        for part, draw in zip(layout.split(noise), layout, strict=True):
            if draw.movable:
                half, mode = part.flatten(1).square().sum(1) / 2, (draw.size - 1) / 2
                total = total + half - mode - torch.special.xlogy(mode, half / max(mode, 0.5))
        return self.weight * total


def adapt_multiplier(multiplier: Tensor, p: Tensor, min_probability: float) -> Tensor:
    """The weights' multipliers `(B,)` after noise of that P(z) `(B,)`; the formula stands in the module."""
    step = PACE * (math.log(min_probability) - p.to(multiplier).log())
    return multiplier * step.clamp(*(math.log(factor) for factor in FACTORS)).exp()


def probability(
    noise: Tensor, layout: Layout | None = None, *, block: int = 4, permutations: int = 100, strict: bool = False
) -> Tensor:
    """The paper's P(z): the smallest bound, over both tests and all permutations.

    Fresh noise gives about 0.1 to 0.8; values near 0 are noise no Gaussian would give.

    Arguments:
        noise: `(B, *noise_shape)`.
        layout: its layout; without it every element counts. Only draws that may change are tested.
        block: elements per block; a smaller one is taken when it does not divide their number.
        permutations: how many permutations in addition to the identity.
        strict: test every draw, and more of it, instead: `strict_probability`, which also names what looks wrong. Fresh
            noise then gives less than a with probability at most a.

    Returns:
        `(B,)` in [0, 1].

    Example:
        >>> noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> bool(probability(noise) > 0.1), bool(probability(1.2 * noise) < 0.001)
        (True, True)
    """
    if layout is not None:
        layout.check(noise)
    if strict:
        return strict_probability(noise, layout)[0].to(noise.dtype)
    with torch.no_grad():
        flat = noise.flatten(1) if layout is None else layout.movable_part(noise)
        log1, log2 = log_bounds(flat, block=math.gcd(block, flat.shape[1]), permutations=permutations)
        return torch.minimum(log1, log2).amin(1).exp()


def _check_weight(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise ArgumentError(f"weight must be a number >= 0, got {weight}")
