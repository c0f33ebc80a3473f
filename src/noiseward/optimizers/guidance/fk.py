r"""FK steering: particles that are dropped where the predicted reward is low, and multiplied where it is high.

k particles of a row run side by side. At a few steps each gets the weight

.. math::
    w = \exp \lambda \big( r_j - r_{j-1} \big) \;\text{(difference)} \qquad\text{or}\qquad
    w = \exp \lambda \max_{i \le j} r_i \;\text{(max)},

:math:`r_j` being the reward of the predicted sample at the j-th of these steps, :math:`r_0 = 0`; and where the weights
have become uneven, so that their effective number :math:`(\sum w)^2 / \sum w^2` is below k/2, the k particles are
resampled from the old ones in proportion to them (systematic resampling). Differences add up: with a last weight for
the sample itself, particles follow :math:`p(x) e^{\lambda r(x)}` as k grows, whatever the predictions are worth.

No gradient is needed, and every particle remains the model's own work. What it costs: k runs, and k rewards at each of
these steps. When not to use it: with few particles and a good gradient; with an ODE, where equal particles stay equal.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, choices
from noiseward.optimizers.candidates import check_positive
from noiseward.samplers.guide import Guide, Resampling, SamplerStep

__all__ = ["FKSteering"]

POTENTIALS = ("difference", "max")


@final
class FKSteering(Guide):
    r"""Feynman-Kac steering.

    Arguments:
        particles: k; 4 in the paper's experiments.
        scale: :math:`\lambda`; 10.
        potential: `difference` or `max`.
        every: share of the run between weighings; 0.2, from 0.2 to 0.8 of the run.
        adaptive: resample only where weights are uneven; otherwise at each weighing.

    References:
        A General Framework for Inference-time Scaling and Steering of Diffusion Models
        https://arxiv.org/abs/2501.06848

    Example:
        >>> from noiseward import Budget, Guided, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=5).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=Guided(FKSteering(), samples=8), budget=Budget(steps=2))
        >>> bool((solution.gain > 0).all())
        True
    """

    gradient = False

    def __init__(
        self,
        particles: int = 4,
        *,
        scale: float = 10.0,
        potential: str = "difference",
        every: float = 0.2,
        adaptive: bool = True,
    ) -> None:
        if not (isinstance(particles, int) and particles >= 2):
            raise ArgumentError(f"particles must be a whole number >= 2, got {particles}")
        check_positive(scale=scale)
        if potential not in POTENTIALS:
            raise ArgumentError(f"unknown potential '{potential}'; {choices(potential, POTENTIALS)}")
        if not 0 < every <= 0.5:
            raise ArgumentError(f"every must be in (0, 0.5], a share of the run, got {every}")
        self.particles, self.scale, self.potential = particles, scale, potential
        self.every, self.adaptive = every, adaptive

    def __call__(self, step: SamplerStep) -> Resampling | None:
        done = {round(k * self.every * step.of) for k in range(1, int(0.8 / self.every + 1e-9) + 1)}
        if step.index + 1 not in done - {step.of}:
            return None
        memory, reward = step.memory, step.score(step.clean)
        reward = torch.where(reward.isfinite(), reward, -torch.inf)
        before = memory.get("reward", torch.zeros_like(reward))
        if self.potential == "difference":
            gain = self.scale * (reward - before)
            memory["reward"] = reward
        else:
            memory["reward"] = torch.maximum(reward, before) if "reward" in memory else reward
            gain = self.scale * memory["reward"]
        weight = torch.nan_to_num(memory.get("weight", torch.zeros_like(gain)) + gain, nan=-torch.inf)
        memory["weight"] = weight
        return self._resample(weight, step)

    def _resample(self, weight: Tensor, step: SamplerStep) -> Resampling | None:
        """The rows that continue, by log-weights `(B,)`; sets the weights of those resampled to zero."""
        k = self.particles
        groups = weight.view(-1, k)
        share = torch.softmax(torch.where(groups.isfinite().any(1, keepdim=True), groups, 0.0).double(), 1)
        uneven = share.square().sum(1) > 2 / k if self.adaptive else torch.ones(len(share), dtype=torch.bool)
        rows = torch.arange(weight.shape[0], device=weight.device).view(-1, k)
        for group in range(len(share)):
            if uneven[group]:
                point = torch.rand((), generator=step.seeds.generator(group * k, "draw"), dtype=torch.float64)
                places = (torch.arange(k) + point) / k
                chosen = torch.searchsorted(share[group].cumsum(0).cpu(), places).clamp(max=k - 1)
                rows[group] = group * k + chosen.to(rows.device)
        resampled = uneven.to(weight.device).repeat_interleave(k)
        step.memory["weight"] = torch.where(resampled, 0.0, weight)
        return Resampling(rows.flatten()) if bool(uneven.any()) else None
