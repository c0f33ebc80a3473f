r"""Estimators: which way is up.

An **estimator** evaluates the objective at some noise and proposes a **direction** in which its value grows. For a
differentiable reward that is the gradient itself,

.. math::
    \nabla_z \big[ r(M(z)) - \rho(z) \big] = J_M(z)^\top \nabla r - \nabla \rho,

by backpropagation through every step of the sampler: :class:`Backprop`. Where the reward has no gradient, it is
estimated from candidates: see `perturb.py`.
"""

from __future__ import annotations

import abc
from typing import final

import torch
from torch import Tensor

from noiseward.errors import GradientError
from noiseward.noise import Seeds
from noiseward.objective import Evaluation, Objective
from noiseward.reward import Reward, WeightedSum

__all__ = ["Backprop", "Estimator", "pulled"]


class Estimator(abc.ABC):
    """Evaluates the objective and proposes a direction."""

    @abc.abstractmethod
    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        """The evaluation of `noise`, without its graph, and an ascent direction of its shape.

        The direction is zero on draws that do not move, and row i of it depends on row i alone.
        """

    @abc.abstractmethod
    def check(self, reward: Reward) -> None:
        """Raise `GradientError`, naming the alternatives, if this estimator cannot climb that reward."""


@final
class Backprop(Estimator):
    """The exact gradient, by backpropagation through reward and sampler.

    Raises:
        GradientError: the reward is a black box, or the sampler or the reward leaves the graph.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881

    Example:
        >>> import torch
        >>> from noiseward.toys import GaussianModel, Linear
        >>> model = GaussianModel(steps=4)
        >>> objective = Objective(model.sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1, seed=0)
        >>> evaluation, direction = Backprop()(objective, noise, Seeds((0,)))
        >>> torch.allclose(direction[0, :, 0], model.weights.float(), atol=1e-6)
        True
    """

    def check(self, reward: Reward) -> None:
        if reward.differentiable:
            return
        parts = reward.rewards if isinstance(reward, WeightedSum) else [reward]
        black = ", ".join(f"'{part.name}'" for part in parts if not part.differentiable)
        raise GradientError(
            f"reward {black} is a black box, it has no gradient to follow: take the estimator Hybrid2, Hybrid1 or "
            "ZerothOrder, or search (BestOfN, ZeroOrderSearch, TrustRegion, ChannelEvolution); a function that has a "
            "gradient is FunctionReward(fn, differentiable=True)"
        )

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        self.check(objective.reward)
        variable = noise.detach().requires_grad_(True)
        with torch.enable_grad():
            evaluation = objective(variable)
            if not evaluation.sample.requires_grad:
                raise GradientError(
                    "no gradient reaches the sample: the sampler runs under torch.no_grad() or leaves torch; "
                    "pass it without that decorator (fn.__wrapped__)"
                )
            gradient = pulled(evaluation.reward, variable)
            if gradient is None:
                raise GradientError(
                    f"reward '{objective.reward.name}' returned a score without a gradient to the noise: it detaches "
                    "its input, leaves torch, or should be declared differentiable=False; or the sampler detaches it"
                )
            penalty = pulled(evaluation.penalty, variable)
            if penalty is not None:
                gradient = gradient - penalty
        return evaluation.detach(), objective.sampler.layout.movable(gradient)


def pulled(scores: Tensor, noise: Tensor) -> Tensor | None:
    """The gradient of the sum of scores `(B,)`, or None where no graph leads from them to the noise."""
    if not scores.requires_grad:
        return None
    return torch.autograd.grad(scores.sum(), noise, allow_unused=True)[0]
