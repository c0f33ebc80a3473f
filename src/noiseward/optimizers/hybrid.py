r"""The paper's hybrids: the reward is a black box, the sampler is differentiated (see `zeroth_order.py`)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.errors import GradientError
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import draw_movable, evaluate, score_chunks
from noiseward.optimizers.zeroth_order import Perturbed, finish, mix, weigh
from noiseward.samplers.precision import pull_back

__all__ = ["Hybrid1", "Hybrid2"]


@final
class Hybrid1(Perturbed):
    r"""The reward's gradient from perturbed samples, pulled back through the sampler.

    .. math:: G_1 = J^\top H_1, \quad H_1 = \tfrac{1}{\mu q} \textstyle\sum_i (r(x + \mu\xi_i) - r(x)) \, \xi_i,
              \quad x = M(z)

    It samples once per step, so it is the cheapest by far when scoring is cheap. But its candidates are images with
    white noise added, which the model would not generate: a reward trained on natural images may judge the noise rather
    than the image. Candidates of images in [0, 1] are clamped, so that the reward sees what can be shown: :math:`H_1`
    is then the gradient of the reward of clamped images.

    Arguments:
        samples, scale, normalize: see `ZerothOrder`; `scale` is in units of the sample, of which a pixel spans 1.
        chunk: samples per call of a differentiable reward; a black box gets all of them at once.

    Raises:
        GradientError: no gradient goes through the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward import GradientAscent
        >>> ascent = GradientAscent(Hybrid1(samples=16), lr=0.01)
    """

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        variable, sample, evaluation = _sample_with_graph(objective, noise)
        plain, rows = sample.detach(), noise.shape[0]
        are_images = [_is_image(row) for row in plain]

        def perturbation(row: int, i: int) -> Tensor:
            generator = seeds.generator(row, f"sample perturbation {i}")
            return torch.randn(plain.shape[1:], generator=generator, dtype=torch.float32).to(plain)

        def candidate(row: int, i: int) -> Tensor:
            perturbed = plain[row] + self.scale * perturbation(row, i)
            return perturbed.clamp(0, 1) if are_images[row] else perturbed

        candidates = torch.stack([candidate(row, i) for row in range(rows) for i in range(self.samples)])
        rewards, _ = score_chunks(objective.repeat(self.samples), candidates, self.chunk)
        change = rewards.view(rows, self.samples) - evaluation.reward.detach()[:, None]
        weights = weigh(change, self.scale * self.samples, self.normalize).to(noise.dtype)
        direction = _pull_direction(sample, variable, mix(weights, perturbation, plain), objective.sampler.half)
        return finish(objective, evaluation, variable, direction, self.normalize)


@final
class Hybrid2(Perturbed):
    r"""What candidates' rewards and samples do together, pulled back through the sampler.

    .. math:: G_2 = J^\top H_2, \quad H_2 = \tfrac1q \textstyle\sum_i (r(x_i) - r(x)) (x_i - x), \quad
              x_i = M(z + \mu\xi_i), \; x = M(z)

    Its candidates are samples of the model, so the reward sees nothing but natural images, and its perturbations are
    those the model can follow. It is an ascent direction, :math:`\langle G_2, J^\top\nabla r \rangle \to \mu^2
    \|J J^\top \nabla r\|^2 \ge 0`, zero only where the gradient is. It is not the gradient, whatever q is: it tends to
    :math:`\mu^2 J^\top J J^\top \nabla r`, the gradient preconditioned towards what the sampler amplifies. Without a
    penalty the two vanish at the same noise; with one, :math:`G_2 - \nabla\rho = 0` is not the optimum of
    :math:`r - \rho`. Where that matters, take `Hybrid1` or `ZerothOrder` with `normalize=False`; directions of norm 1
    settle elsewhere, too.

    Arguments:
        samples, scale, normalize, chunk: see `ZerothOrder`.

    Raises:
        GradientError: no gradient goes through the sampler.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> from noiseward import GradientAscent
        >>> ascent = GradientAscent(Hybrid2(samples=16), lr=0.01)
    """

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        layout, start = objective.sampler.layout, noise.detach()

        def candidate(row: int, i: int) -> Tensor:
            return start[row] + self.scale * draw_movable(start, layout, seeds, row, f"perturbation {i}")

        # candidates first: their memory is free again when the graph is built
        found = evaluate(objective, candidate, rows=noise.shape[0], count=self.samples, chunk=self.chunk, penalty=False)
        variable, sample, evaluation = _sample_with_graph(objective, noise)
        plain = sample.detach()
        change = found.reward - evaluation.reward.detach()[:, None]
        weights = weigh(change, self.samples, self.normalize).to(noise.dtype)
        mixed = mix(weights, lambda row, i: found.sample[row, i] - plain[row], plain)
        direction = _pull_direction(sample, variable, mixed, objective.sampler.half)
        return finish(objective, evaluation, variable, direction, self.normalize)


def _sample_with_graph(objective: Objective, noise: Tensor) -> tuple[Tensor, Tensor, Evaluation]:
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


def _pull_direction(sample: Tensor, variable: Tensor, direction: Tensor, half: bool) -> Tensor:
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


def _is_image(sample: Tensor) -> bool:
    """Whether a sample `(C, H, W)` is an image in [0, 1]."""
    if sample.ndim != 3 or sample.shape[0] not in (1, 3):
        return False
    low, high = sample.aminmax()
    return bool(low >= 0 and high <= 1)
