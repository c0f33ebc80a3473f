r"""Evolution on the rotation of channels: a search with so few unknowns that few candidates do.

A draw of c channels is a matrix :math:`z_k \in \mathbb{R}^{c \times P}`, P being its number of positions. The unknowns
are a square matrix :math:`A`, :math:`c^2` numbers, and a vector :math:`a` of c more:

.. math::
    z_k' = Q(I + A) \, z_k, \qquad \text{and for the first draw} \quad
    z_1' = Q(I + A) \, (z_1 - \bar z_1 1^\top) + \|\bar z_1\| \frac{\bar z_1 + a / \sqrt P}{\|\bar z_1 + a / \sqrt P\|}
    1^\top,

where Q is the orthogonal factor of the QR decomposition with a positive diagonal, :math:`Q(I) = I`, and
:math:`\bar z_1` are the means of the first draw's channels. A rotation leaves Gaussian noise Gaussian, and the means
keep their norm, and with them every draw keeps its own.

They evolve by natural evolution with a deviation for each: with :math:`s_i \sim N(0, I)` and utilities
:math:`u_i` that fall with the rank of candidate i and sum to zero,

.. math::
    m \leftarrow m + \sigma \odot \textstyle\sum_i u_i s_i, \qquad
    \sigma \leftarrow \sigma \odot \exp\big(\tfrac\eta2 \textstyle\sum_i u_i (s_i^2 - 1)\big).
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.noise.layout import Draw, Layout, Seeds
from noiseward.optimizers.candidates import (
    check_counts,
    check_positive,
    choose,
    comparable,
    compare,
    keep_fixed,
)

__all__ = ["ChannelEvolution", "rotate_channels"]

MOST_CHANNELS = 64


@final
class ChannelEvolution(Optimizer):
    """An evolution strategy on the rotation of the noise's channels: c + c^2 unknowns (see the module).

    The noise is the best found so far; the strategy continues around its own mean. It changes what channels carry,
    colors and contrasts of a latent, and nothing within the image: its reach is short and soon exhausted.

    Arguments:
        samples: q, candidates per row and step.
        scale: the first deviation of every unknown.
        chunk: rows of candidates per call of the sampler.

    Raises:
        ArgumentError: more than 64 channels: the leading axis of the draws is not one of channels.

    References:
        Inference-Time Alignment of Diffusion Models with Evolutionary Algorithms
        https://arxiv.org/abs/2506.00299 (rotation and mean of the channels)
        High Dimensions and Heavy Tails for Natural Evolution Strategies
        https://doi.org/10.1145/2001576.2001692 (separable natural evolution)

    Example:
        >>> from noiseward import Budget, FunctionSampler, optimize
        >>> from noiseward.toys import Linear
        >>> objective = Objective(FunctionSampler(lambda batch: torch.randn(batch, 4, 8, 8)), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=ChannelEvolution(8), budget=Budget(steps=4))
        >>> bool((solution.gain > 0).all()), torch.allclose(solution.noise.norm(), start.norm())
        (True, True)
    """

    def __init__(self, samples: int = 16, scale: float = 0.2, *, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        check_positive(scale=scale)
        self.samples, self.scale, self.chunk = samples, scale, chunk

    def check(self, objective: Objective) -> None:
        first = _first(objective.sampler.layout)
        if _channels(first) > MOST_CHANNELS:
            raise ArgumentError(
                f"draw '{first.name}' must have at most {MOST_CHANNELS} channels (its leading axis), got shape "
                f"{first.shape}; search with ZeroOrderSearch or TrustRegion"
            )

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout = objective.sampler.layout
        channels = _channels(_first(layout))
        size = channels + channels**2
        own = {
            "base": noise,
            "mean": noise.new_zeros(noise.shape[0], size),
            "deviation": noise.new_full((noise.shape[0], size), self.scale),
            **state,
        }

        def shift(row: int, i: int) -> Tensor:
            generator = seeds.generator(row, f"candidate {i}")
            return torch.randn(size, generator=generator, dtype=noise.dtype).to(noise.device)

        def candidate(row: int, i: int) -> Tensor:
            unknowns = own["mean"][row] + own["deviation"][row] * shift(row, i)
            return rotate_channels(own["base"][row], unknowns, layout)

        evaluation, found = compare(objective, noise, candidate, count=self.samples, chunk=self.chunk)
        mean, deviation = own["mean"].clone(), own["deviation"].clone()
        rate = (3 + math.log(size)) / (5 * math.sqrt(size))
        for row, weight in enumerate(rank_utilities(comparable(found.value)).to(noise.dtype)):
            shifts = torch.stack([shift(row, i) for i in range(self.samples)])
            mean[row] += deviation[row] * (weight @ shifts)
            deviation[row] *= (rate / 2 * (weight @ (shifts.square() - 1))).exp()
        after = {"base": own["base"], "mean": mean, "deviation": deviation}
        choice = choose(objective, noise, evaluation.value, found.value, candidate, known=state.get(KNOWN))
        return choice.move(objective, evaluation, noise, choice.select(noise, candidate), after)


def rotate_channels(noise: Tensor, unknowns: Tensor, layout: Layout) -> Tensor:
    """Rotate the channels of one row's noise `noise_shape` by unknowns `(c + c^2,)`; at zero, itself to rounding."""
    first = _first(layout)
    channels = _channels(first)
    shift, matrix = unknowns[:channels], unknowns[channels:].view(channels, channels)
    q, r = torch.linalg.qr((torch.eye(channels, dtype=noise.dtype, device=noise.device) + matrix).double())
    rotation = (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).to(noise.dtype)
    parts = []
    for part, draw in zip(layout.split(noise[None]), layout, strict=True):
        flat = part[0].reshape(_channels(draw), -1)
        if draw is first:
            means = flat.mean(1, keepdim=True)
            shifted = means + shift[:, None] / math.sqrt(flat.shape[1])
            size = shifted.norm().clamp(min=torch.finfo(noise.dtype).tiny)
            flat = rotation @ (flat - means) + shifted * (means.norm() / size)
        elif draw.movable and _channels(draw) == channels:
            flat = rotation @ flat
        parts.append(flat.reshape(part.shape))
    return keep_fixed(layout.join(parts)[0], noise, layout)


def rank_utilities(value: Tensor) -> Tensor:
    """Utilities `(B, q)` of values to rank: falling with the rank, zero in the sum, equal for equal values.

    Example:
        >>> rank_utilities(torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 5.0]])).round(decimals=2).abs().tolist()
        [[0.47, 0.33, 0.14], [0.0, 0.0, 0.0]]
    """
    count = value.shape[1]
    ranks = torch.arange(1, count + 1, dtype=torch.float64, device=value.device)
    raw = (math.log(count / 2 + 1) - ranks.log()).clamp(min=0)
    by_rank = raw / raw.sum() - 1 / count
    assigned = torch.empty(value.shape, dtype=torch.float64, device=value.device)
    assigned.scatter_(1, value.argsort(dim=1, descending=True, stable=True), by_rank.expand(value.shape))
    equal = (value[:, :, None] == value[:, None, :]).double()
    return (equal @ assigned[:, :, None])[:, :, 0] / equal.sum(2)


def _first(layout: Layout) -> Draw:
    """The first draw that may change."""
    return next(draw for draw in layout if draw.movable)


def _channels(draw: Draw) -> int:
    return draw.shape[0] if draw.shape else 1
