r"""Directions for a reward without a gradient, estimated from what perturbations of scale :math:`\mu` do to it.

With :math:`J = J_M(z)` the sampler's Jacobian, :math:`\xi` standard normal and q samples of it,

.. math::
    \begin{aligned}
    \text{zeroth order:} \quad & G_0 = \tfrac1\mu \, \mathbb{E}_\xi [(r(M(z + \mu\xi)) - r(M(z))) \, \xi] \\
    \text{hybrid 1:} \quad & G_1 = J^\top H_1, \quad H_1 = \tfrac1\mu \, \mathbb{E}_\xi [(r(x + \mu\xi) - r(x)) \, \xi],
        \quad x = M(z) \\
    \text{hybrid 2:} \quad & G_2 = J^\top H_2, \quad H_2 = \mathbb{E}_\xi [(r(M(z + \mu\xi)) - r(M(z)))
        (M(z + \mu\xi) - M(z))].
    \end{aligned}

Only :math:`J^\top` is backpropagation (`hybrid.py`): one vector-Jacobian product, whose forward pass is also the
evaluation of z. The reward is never differentiated. As :math:`\mu \to 0`,

.. math::
    G_0, G_1 \to J^\top \nabla r, \qquad G_2 / \mu^2 \to J^\top J J^\top \nabla r,

with an error that falls as :math:`q^{-1/2}`.

What a step costs, in runs of the sampler per row: :class:`ZerothOrder` q + 1 forward; `Hybrid1` 1 forward and
backward; `Hybrid2` q + 1 forward and 1 backward. In scores of the reward: q + 1.

When all candidates score the same, as happens with rewards that take few values, the direction is zero and the row
stays where it is; the run reports that at its end. A candidate whose score is not finite is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import check_counts, check_positive, draw_movable, evaluate
from noiseward.optimizers.gradient import Estimator, score_gradient

__all__ = ["Perturbed", "ZerothOrder", "finish", "mix", "weigh"]

EPSILON = 1e-12  # added to the norm that a direction is divided by, so that zero stays zero


class Perturbed(Estimator):
    """What the three have in common: how many candidates, how far away, and that any reward will do."""

    random = True

    def __init__(self, samples: int = 16, scale: float = 0.05, *, normalize: bool = True, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        check_positive(scale=scale)
        self.samples, self.scale, self.normalize, self.chunk = samples, scale, normalize, chunk


@final
class ZerothOrder(Perturbed):
    r"""The gradient from forward differences in the noise; the sampler is a black box too.

    .. math:: G_0 = \tfrac{1}{\mu q} \textstyle\sum_i (r(M(z + \mu\xi_i)) - r(M(z))) \, \xi_i

    With `antithetic`, q / 2 pairs :math:`\tfrac{1}{2\mu} (r(M(z + \mu\xi)) - r(M(z - \mu\xi))) \, \xi` instead: what is
    even in :math:`\xi` cancels, such as curvature, for half as many directions.

    It needs no backpropagation, so it fits where memory is short or the sampler leaves torch. Its error grows with the
    number of elements of the noise; the hybrids' with that of the sample, or less.

    Arguments:
        samples: q, candidates per row and step.
        scale: :math:`\mu`. The published implementation takes 0.01.
        antithetic: use pairs; q must be even.
        normalize: scale each row's direction to norm 1, before the exact gradient of the penalty is subtracted.
        chunk: rows of candidates per call of the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward import GradientAscent
        >>> ascent = GradientAscent(ZerothOrder(samples=16), lr=0.01)
    """

    def __init__(
        self,
        samples: int = 16,
        scale: float = 0.05,
        *,
        antithetic: bool = False,
        normalize: bool = True,
        chunk: int = 16,
    ) -> None:
        super().__init__(samples, scale, normalize=normalize, chunk=chunk)
        if antithetic and samples % 2:
            raise ArgumentError(f"samples must be even with antithetic, got {samples}")
        self.antithetic = antithetic

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        noise, layout = noise.detach(), objective.sampler.layout
        signs = (1, -1) if self.antithetic else (1,)

        def perturbation(row: int, i: int) -> Tensor:
            return draw_movable(noise, layout, seeds, row, f"perturbation {i}")

        def candidate(row: int, i: int) -> Tensor:
            return noise[row] + signs[i % len(signs)] * self.scale * perturbation(row, i // len(signs))

        how = {"rows": noise.shape[0], "count": self.samples, "chunk": self.chunk}
        rewards = evaluate(objective, candidate, **how, penalty=False).reward
        variable = noise.clone().requires_grad_(True)
        with torch.no_grad():
            sample = objective.sampler(noise, objective.prompt)
        with torch.enable_grad():
            evaluation = objective.judge(variable, sample)
        if self.antithetic:
            change = rewards[:, 0::2] - rewards[:, 1::2]
        else:
            change = rewards - evaluation.reward.detach()[:, None]
        weights = weigh(change, self.scale * self.samples, self.normalize).to(noise.dtype)
        return finish(objective, evaluation, variable, mix(weights, perturbation, noise), self.normalize)


def weigh(change: Tensor, divisor: float, normalize: bool) -> Tensor:
    """Changes of the reward `(B, q)` as weights: zero where not finite, the largest of a row 1 if normalized later."""
    change = torch.where(change.isfinite(), change, 0.0)
    if not normalize:
        return change / divisor
    largest = change.abs().amax(1, keepdim=True)
    return change / torch.where(largest > 0, largest, 1.0)


def mix(weights: Tensor, part: Callable[[int, int], Tensor], like: Tensor) -> Tensor:
    """Per row the sum of parts by their weights `(B, q)`; parts of weight zero are not computed."""
    wide = torch.zeros_like(like, dtype=weights.dtype)
    for row, of_row in enumerate(weights.tolist()):
        for i, weight in enumerate(of_row):
            if weight:
                wide[row] += weight * part(row, i).to(wide.dtype)
    return wide


def finish(
    objective: Objective, evaluation: Evaluation, variable: Tensor, direction: Tensor, normalize: bool
) -> tuple[Evaluation, Tensor]:
    """The evaluation, and the direction: normalized, if asked, less the exact gradient of the penalty."""
    layout = objective.sampler.layout
    direction = layout.zero_fixed(direction)
    if normalize:
        size = direction.flatten(1).norm(dim=1).view(-1, *(1,) * (direction.ndim - 1))
        direction = direction / (size + EPSILON)
    with torch.enable_grad():
        penalty = score_gradient(evaluation.penalty, variable)
    if penalty is not None:
        direction = direction - layout.zero_fixed(penalty)
    return evaluation.detach(), direction
