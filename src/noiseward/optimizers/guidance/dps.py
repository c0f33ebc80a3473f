r"""DPS: follow the gradient of the reward of the predicted sample, step by step.

.. math:: x_{t-1} \leftarrow x_{t-1} + \zeta \, \nabla_{x_t} r(\hat x_0(x_t)).

Written for inverse problems, :math:`r(x) = -\|y - A(x)\|`, where :math:`\zeta = 1` and the gradient has a norm of order
one. Other rewards have scales of their own, so the gradient is normalized here, row by row, unless asked not to: then
this is the formula to the letter.

What it costs: one backward per step, on top of the run. When not to use it: the reward is a black box, or a network
that never saw anything as blurred as an early prediction; or the sampler has no noise of its own (eta = 0), in which a
shift could be expressed.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.optimizers.candidates import check_positive
from noiseward.samplers.guide import Guide, SamplerStep, StateShift

__all__ = ["DPS", "normalize_rows"]


@final
class DPS(Guide):
    r"""Diffusion posterior sampling.

    Arguments:
        scale: :math:`\zeta`, 1 in the paper.
        normalize: bring each row's gradient to norm one first (see the module).

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems, https://arxiv.org/abs/2209.14687

    Example:
        >>> from noiseward import Budget, Guided, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=Guided(DPS(), samples=2), budget=Budget(steps=1))
        >>> bool((solution.gain > 0).all())
        True
    """

    gradient = True

    def __init__(self, scale: float = 1.0, *, normalize: bool = True) -> None:
        check_positive(scale=scale)
        self.scale, self.normalize = scale, normalize

    def __call__(self, step: SamplerStep) -> StateShift:
        gradient = step.pull(step.score(step.clean))
        return StateShift(self.scale * (normalize_rows(gradient) if self.normalize else gradient))


def normalize_rows(gradient: Tensor) -> Tensor:
    """Each row's gradient at norm one; zero stays zero."""
    size = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, *(1,) * (gradient.ndim - 1))
