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

Only :math:`J^\top` is backpropagation: one vector-Jacobian product, whose forward pass is also the evaluation of z. The
reward is never differentiated. As :math:`\mu \to 0`,

.. math::
    G_0, G_1 \to J^\top \nabla r, \qquad G_2 / \mu^2 \to J^\top J J^\top \nabla r,

with an error that falls as :math:`q^{-1/2}`.

What a step costs, in denoiser calls per row: :class:`ZerothOrder` q + 1 forward; :class:`Hybrid1` 1 forward and
backward; :class:`Hybrid2` q + 1 forward and 1 backward. What it asks of the reward: q + 1 scores.

When all candidates score the same, as happens with rewards that come in steps, the direction is zero and the row stays
where it is; the run says so at its end. A candidate whose score is not finite is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import check_counts, draw_movable, evaluate, score_chunks
from noiseward.optimizers.gradient import Estimator, score_gradient
from noiseward.rewards.reward import Reward
from noiseward.samplers.precision import pull_back

__all__ = ["Hybrid1", "Hybrid2", "ZerothOrder"]

EPSILON = 1e-12  # beside the norm that a direction is divided by, so that zero stays zero


class Perturbed(Estimator):
    """What the three have in common: how many candidates, how far away, and that any reward will do."""

    def __init__(self, samples: int = 16, scale: float = 0.05, *, normalize: bool = True, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        if not 0 < scale < float("inf"):
            raise ArgumentError(f"scale={scale} given: a positive number wanted")
        self.samples, self.scale, self.normalize, self.chunk = samples, scale, normalize, chunk

    def check(self, reward: Reward) -> None:
        pass


@final
class ZerothOrder(Perturbed):
    r"""The gradient from forward differences in the noise; the sampler is a black box too.

    .. math:: G_0 = \tfrac{1}{\mu q} \textstyle\sum_i (r(M(z + \mu\xi_i)) - r(M(z))) \, \xi_i

    With `antithetic`, q / 2 pairs :math:`\tfrac{1}{2\mu} (r(M(z + \mu\xi)) - r(M(z - \mu\xi))) \, \xi` instead: what is
    even in :math:`\xi` cancels, such as curvature, for half as many directions.

    It needs no backpropagation, so it is what fits when memory is short or the sampler leaves torch. Its error grows
    with the number of elements of the noise; the hybrids' with that of the sample, or less.

    Arguments:
        samples: q, candidates per row and step; 16 are the paper's.
        scale: :math:`\mu`. The published implementation takes 0.01. On the built-in model (`experiments/black_box.py`,
            10 sampler steps, `Hybrid2` with 16 candidates) 0.05 gained twice as much on `jpeg` and as much elsewhere
            (six pictures, wide intervals).
        antithetic: use pairs; q must be even.
        normalize: scale each row's direction to norm 1, before the exact gradient of the penalty is subtracted.
        chunk: rows of candidates per call of the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward.optimizers.gradient import Backprop
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1, seed=0)
        >>> _, direction = ZerothOrder(400, 0.1, chunk=400)(objective, noise, Seeds((0,)))
        >>> _, exact = Backprop()(objective, noise, Seeds((0,)))
        >>> bool(torch.cosine_similarity(direction.flatten(), exact.flatten(), dim=0) > 0.95)
        True
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
            raise ArgumentError(f"samples={samples} given: antithetic pairs want an even number")
        self.antithetic = antithetic

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        noise, layout, rows = noise.detach(), objective.sampler.layout, noise.shape[0]
        signs = (1, -1) if self.antithetic else (1,)

        def way(row: int, i: int) -> Tensor:
            return draw_movable(noise, layout, seeds, row, f"perturbation {i}")

        def candidate(row: int, i: int) -> Tensor:
            return noise[row] + signs[i % len(signs)] * self.scale * way(row, i // len(signs))

        found = evaluate(objective, candidate, rows=rows, count=self.samples, chunk=self.chunk, penalty=False).reward
        variable = noise.clone().requires_grad_(True)
        with torch.no_grad():
            sample = objective.sampler(noise, objective.prompt)
        with torch.enable_grad():
            evaluation = objective.judge(variable, sample)
        if self.antithetic:
            change = found[:, 0::2] - found[:, 1::2]
        else:
            change = found - evaluation.reward.detach()[:, None]
        weights = _weights(change, self.scale * self.samples, self.normalize).to(noise.dtype)
        direction = _mixed(weights, way, noise)
        return _finished(objective, evaluation, variable, direction, self.normalize)


@final
class Hybrid1(Perturbed):
    r"""The reward's gradient from perturbed samples, pulled back through the sampler.

    .. math:: G_1 = J^\top H_1, \quad H_1 = \tfrac{1}{\mu q} \textstyle\sum_i (r(x + \mu\xi_i) - r(x)) \, \xi_i,
              \quad x = M(z)

    It samples once per step, so it is the cheapest by far when scoring is cheap. But its candidates are pictures with
    white noise added, which the model would not make: a reward trained on natural pictures may judge the noise rather
    than the picture. Candidates of pictures in [0, 1] are cut off there, so that the reward sees what can be shown:
    :math:`H_1` is then the gradient of the reward of cut-off pictures.

    Arguments:
        samples, scale, normalize: see `ZerothOrder`; `scale` is in units of the sample, of which a pixel spans 1.
        chunk: samples per call of a differentiable reward; a black box gets all of them at once.

    Raises:
        GradientError: no gradient goes through the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward.optimizers.gradient import Backprop
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1, seed=0)
        >>> _, direction = Hybrid1(400, 0.1, chunk=400)(objective, noise, Seeds((0,)))
        >>> _, exact = Backprop()(objective, noise, Seeds((0,)))
        >>> bool(torch.cosine_similarity(direction.flatten(), exact.flatten(), dim=0) > 0.95)
        True
    """

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        variable, sample, evaluation = _sampled(objective, noise)
        plain, rows = sample.detach(), noise.shape[0]

        def way(row: int, i: int) -> Tensor:
            generator = seeds.generator(row, f"sample perturbation {i}")
            return torch.randn(plain.shape[1:], generator=generator, dtype=torch.float32).to(plain)

        shown = [_pictured(row) for row in plain]

        def candidate(row: int, i: int) -> Tensor:
            moved = plain[row] + self.scale * way(row, i)
            return moved.clamp(0, 1) if shown[row] else moved

        candidates = torch.stack([candidate(row, i) for row in range(rows) for i in range(self.samples)])
        found, _ = score_chunks(objective.repeat(self.samples), candidates, self.chunk)
        change = found.view(rows, self.samples) - evaluation.reward.detach()[:, None]
        weights = _weights(change, self.scale * self.samples, self.normalize).to(noise.dtype)
        direction = _pulled_back(sample, variable, _mixed(weights, way, plain), objective.sampler.half)
        return _finished(objective, evaluation, variable, direction, self.normalize)


@final
class Hybrid2(Perturbed):
    r"""What candidates' rewards and samples do together, pulled back through the sampler.

    .. math:: G_2 = J^\top H_2, \quad H_2 = \tfrac1q \textstyle\sum_i (r(x_i) - r(x)) (x_i - x), \quad
              x_i = M(z + \mu\xi_i), \; x = M(z)

    Its candidates are samples the model makes, so the reward sees nothing but natural pictures, and its perturbations
    are those the model can follow. It is an ascent direction, :math:`\langle G_2, J^\top\nabla r \rangle \to \mu^2
    \|J J^\top \nabla r\|^2 \ge 0`, zero only where the gradient is. It is not the gradient, whatever q is: it tends to
    :math:`\mu^2 J^\top J J^\top \nabla r`, the gradient preconditioned towards what the sampler amplifies. Without a
    penalty the two vanish at the same noise; with one, :math:`G_2 - \nabla\rho = 0` is not the optimum of
    :math:`r - \rho`. Where that matters, take `Hybrid1` or `ZerothOrder`.

    Arguments:
        samples, scale, normalize, chunk: see `ZerothOrder`.

    Raises:
        GradientError: no gradient goes through the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward.optimizers.gradient import Backprop
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1, seed=0)
        >>> _, direction = Hybrid2(400, 0.1, chunk=400)(objective, noise, Seeds((0,)))
        >>> _, exact = Backprop()(objective, noise, Seeds((0,)))
        >>> bool(torch.cosine_similarity(direction.flatten(), exact.flatten(), dim=0) > 0.95)
        True
    """

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        layout, start = objective.sampler.layout, noise.detach()

        def candidate(row: int, i: int) -> Tensor:
            return start[row] + self.scale * draw_movable(start, layout, seeds, row, f"perturbation {i}")

        # candidates first: their memory is free again when the graph is built
        found = evaluate(objective, candidate, rows=noise.shape[0], count=self.samples, chunk=self.chunk, penalty=False)
        variable, sample, evaluation = _sampled(objective, noise)
        plain = sample.detach()
        change = found.reward - evaluation.reward.detach()[:, None]
        weights = _weights(change, self.samples, self.normalize).to(noise.dtype)
        mixed = _mixed(weights, lambda row, i: found.sample[row, i] - plain[row], plain)
        direction = _pulled_back(sample, variable, mixed, objective.sampler.half)
        return _finished(objective, evaluation, variable, direction, self.normalize)


def _weights(change: Tensor, divisor: float, normalize: bool) -> Tensor:
    """Changes of the reward `(B, q)` as weights: zero where not finite, the largest of a row 1 if normalized later."""
    change = torch.where(change.isfinite(), change, 0.0)
    if not normalize:
        return change / divisor
    largest = change.abs().amax(1, keepdim=True)
    return change / torch.where(largest > 0, largest, 1.0)


def _mixed(weights: Tensor, part: Callable[[int, int], Tensor], like: Tensor) -> Tensor:
    """Per row the sum of parts by their weights `(B, q)`; parts of weight zero are not made."""
    wide = torch.zeros_like(like, dtype=weights.dtype)
    for row, of_row in enumerate(weights.tolist()):
        for i, weight in enumerate(of_row):
            if weight:
                wide[row] += weight * part(row, i).to(wide.dtype)
    return wide


def _sampled(objective: Objective, noise: Tensor) -> tuple[Tensor, Tensor, Evaluation]:
    """The noise as a variable, its sample with a graph, and its evaluation, with a graph of the penalty alone."""
    variable = noise.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        sample = objective.sampler(variable, objective.prompt)
        if not sample.requires_grad:
            raise GradientError(
                "no gradient goes through the sampler: it runs under torch.no_grad() or leaves torch; run it with "
                "noiseward.differentiable(), or take ZerothOrder or a search, which need none"
            )
        return variable, sample, objective.judge(variable, sample.detach())


def _pulled_back(sample: Tensor, variable: Tensor, direction: Tensor, half: bool) -> Tensor:
    r""":math:`J^\top H`, row by row. H goes through at norm 1, or scaled where float16 is on the way."""
    size = direction.flatten(1).norm(dim=1).view(-1, *(1,) * (direction.ndim - 1))
    unit = direction / torch.where(size > 0, size, 1.0)
    gradient = pull_back(sample, variable, unit, half=half)
    if gradient is None:
        raise GradientError(
            "no gradient goes through the sampler: its graph does not lead to the noise, which it detaches somewhere; "
            "take ZerothOrder or a search, which need none"
        )
    return gradient * size.view(-1, *(1,) * (gradient.ndim - 1)).to(gradient.dtype)


def _finished(
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


def _pictured(sample: Tensor) -> bool:
    """Whether a sample `(C, H, W)` is a picture in [0, 1]."""
    if sample.ndim != 3 or sample.shape[0] not in (1, 3):
        return False
    low, high = sample.aminmax()
    return bool(low >= 0 and high <= 1)
