r"""Estimators: where an ascent direction comes from.

An **estimator** evaluates the objective at some noise and proposes a **direction** in which its value grows. For a
differentiable reward that is the gradient itself,

.. math::
    \nabla_z \big[ r(M(z)) - \rho(z) \big] = J_M(z)^\top \nabla r - \nabla \rho,

by backpropagation through every step of the sampler: :class:`Backprop`. Where the reward has no gradient, it is
estimated from candidates: see `zeroth_order.py`.

Optional cheaper gradients are biased. A step of most samplers is

.. math::
    x_{t-1} = a_t x_t + b_t \, \epsilon_\theta(x_t, t) + \sigma_t z_t, \qquad
    \frac{\partial x_{t-1}}{\partial x_t} = a_t I + b_t \frac{\partial \epsilon_\theta}{\partial x_t},

and nearly all of the cost is the denoiser's Jacobian. `Backprop(steps=K)` differentiates the last K of N steps and
changes only the draws made in them, by their exact gradient. `Backprop(through="linear")` drops the Jacobian and keeps
:math:`a_t I`, the sampler's own path, so every draw gets a gradient, and none of them is exact; with `steps=K` the last
K steps still keep their Jacobian. :class:`Annealed` begins with K = 0 and ends with K = N.

    cost in denoiser calls      forward     backward    (recomputed)
    Backprop()                  N           N           (N)
    Backprop(steps=K)           N           K           (K)
    Backprop(through="linear")  N           0           (0)
"""

from __future__ import annotations

import abc
import contextlib
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, GradientError, choices
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Layout, Seeds
from noiseward.rewards.reward import Composite, Reward, find_leaves
from noiseward.samplers.precision import pull_back
from noiseward.samplers.recompute import hold_constant
from noiseward.samplers.sampler import Sampler

__all__ = ["Annealed", "Backprop", "Estimator", "score_gradient"]

THROUGH = ("exact", "linear")


class Estimator(abc.ABC):
    """Evaluates the objective and proposes a direction.

    Attributes:
        random: whether the direction depends on the seeds.

    Example:
        >>> class Upwards(Estimator):
        ...     def __call__(self, objective, noise, seeds):
        ...         return objective(noise), torch.ones_like(noise)
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> Upwards()(objective, objective.sampler.init(1), Seeds((0,)))[1].mean().item()
        1.0
    """

    random: bool = False

    @abc.abstractmethod
    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        """The evaluation of `noise`, without its graph, and an ascent direction of its shape.

        The direction is zero on draws that may not change, and row i of it depends on row i alone.
        """

    def check(self, reward: Reward) -> None:
        """Raise `GradientError`, naming the alternatives, if this estimator cannot follow that reward."""
        return


@final
class Backprop(Estimator):
    """The gradient by backpropagation through reward and sampler: exact, unless asked to be cheaper.

    Arguments:
        steps: go back through the denoiser in the last so many sampler steps alone; None: in all of them. A scheduler
            or a guidance that calls the denoiser twice per step counts two steps.
        through: what leads through the steps before. `exact`: nothing, draws made there do not change and the others
            have their exact gradient. `linear`: the sampler's own path without the denoiser's Jacobian, so that all
            draws change, with a bias; without `steps` the Jacobian is dropped everywhere.

    Raises:
        ArgumentError: less than one step, or an unknown `through`.
        GradientError: the reward is a black box, the sampler or the reward leaves the graph, the sampler's steps are
            not known, or no draw is made in those steps.

    References:
        Inference-Time Alignment of Diffusion Models with Direct Noise Optimization
        https://arxiv.org/abs/2405.18881
        Directly Fine-Tuning Diffusion Models on Differentiable Rewards (its DRaFT-K truncates to the last K steps)
        https://arxiv.org/abs/2309.17400

    Example:
        >>> import torch
        >>> from noiseward.toys import GaussianModel, Linear
        >>> model = GaussianModel(steps=4)
        >>> objective = Objective(model.sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1, seed=0)
        >>> evaluation, direction = Backprop()(objective, noise, Seeds((0,)))
        >>> torch.allclose(direction[0, :, 0], model.weights.float(), atol=1e-6)
        True
        >>> _, late = Backprop(2)(objective, noise, Seeds((0,)))
        >>> (late[0, :, 0] / direction[0, :, 0])[:4].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, steps: int | None = None, *, through: str = "exact") -> None:
        if steps is not None and steps < 1:
            raise ArgumentError(f"steps must be >= 1, got {steps}; pass None for all sampler steps")
        if through not in THROUGH:
            raise ArgumentError(f"unknown through '{through}'; {choices(through, THROUGH)}")
        self.steps, self.through = steps, through

    def check(self, reward: Reward) -> None:
        if reward.differentiable:
            return
        parts = reward.followed if isinstance(reward, Composite) else [reward]
        black = ", ".join(f"'{leaf.name}'" for part in parts for leaf in find_leaves(part) if not leaf.differentiable)
        raise GradientError(
            f"reward {black} is a black box, it has no gradient to follow: take the estimator Hybrid2, Hybrid1 or "
            "ZerothOrder, or search (BestOfN, ZeroOrderSearch, TrustRegion, ChannelEvolution); a function that has a "
            "gradient is FunctionReward(fn, differentiable=True)"
        )

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        self.check(objective.reward)
        layout = objective.sampler.layout
        skipped = self._skipped(layout)
        variable = noise.detach().requires_grad_(True)
        with torch.enable_grad():
            with hold_constant(skipped) if skipped else contextlib.nullcontext():
                evaluation = objective(variable)
            if not evaluation.sample.requires_grad:
                raise GradientError(
                    "no gradient reaches the sample: the sampler runs under torch.no_grad() or leaves torch; "
                    "run it with noiseward.differentiable()"
                )
            gradient = _reward_gradient(evaluation, variable, objective.sampler)
            if gradient is None:
                raise GradientError(
                    f"reward '{objective.reward.name}' returned a score without a gradient to the noise: it detaches "
                    "its input, leaves torch, or should be declared differentiable=False; or the sampler detaches it"
                )
            penalty = score_gradient(evaluation.penalty, variable)
            if penalty is not None:
                gradient = gradient - penalty
        direction = layout.zero_fixed(gradient)
        if skipped and self.through == "exact":
            direction = layout.keep([draw.after >= skipped for draw in layout], direction)
        return evaluation.detach(), direction

    def _skipped(self, layout: Layout) -> int:
        """In how many steps, from the first, the denoiser's Jacobian is left out."""
        if self.steps is None and self.through == "exact":
            return 0
        if not layout.steps:
            raise GradientError(
                "the sampler's steps cannot be distinguished because its denoiser is not known; make it with "
                "FunctionSampler(fn, denoiser=module), or take Backprop()"
            )
        skipped = max(layout.steps - (self.steps or 0), 0)
        if self.through == "exact" and not any(draw.movable and draw.after >= skipped for draw in layout):
            raise GradientError(
                f"no draw that may change is made in the last {self.steps} of {layout.steps} steps: take more of them, "
                "or through='linear'; or a sampler that draws noise in each step (eta=1)"
            )
        return skipped


@final
class Annealed(Estimator):
    r"""From cheap to exact: at step k the denoiser's Jacobian is kept in the last :math:`\lfloor N k / m \rfloor` of N
    sampler steps, and the sampler's own path leads through those before; from step m on the gradient is exact.

    Arguments:
        until: m, the optimization step from which the gradient is exact. Take about half as many as the run has.

    Raises:
        ArgumentError: less than one step.
        GradientError: as `Backprop`.

    Example:
        >>> from noiseward.samplers.cost import count_calls
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> noise = objective.sampler.init(1)
        >>> with count_calls() as meter:
        ...     for step in (0, 5, 10):
        ...         _ = Annealed(10)(objective, noise, Seeds((0,), step))
        >>> meter.nfe
        NFE(forward=12, backward=6, recomputed=0)
    """

    def __init__(self, until: int = 15) -> None:
        if until < 1:
            raise ArgumentError(f"until must be >= 1, got {until}")
        self.until = until

    def check(self, reward: Reward) -> None:
        Backprop().check(reward)

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        if seeds.step >= self.until:
            return Backprop()(objective, noise, seeds)
        steps = objective.sampler.layout.steps * seeds.step // self.until
        return Backprop(steps or None, through="linear")(objective, noise, seeds)


def _reward_gradient(evaluation: Evaluation, noise: Tensor, sampler: Sampler) -> Tensor | None:
    """The gradient of each row's reward; in two parts where float16 is on the way, the second of them scaled."""
    if not sampler.half:
        return score_gradient(evaluation.reward, noise)
    to_sample = score_gradient(evaluation.reward, evaluation.sample)
    if to_sample is None:
        return None
    return pull_back(evaluation.sample, noise, to_sample, half=True, layout=sampler.layout)


def score_gradient(scores: Tensor, noise: Tensor) -> Tensor | None:
    """The gradient of the sum of scores `(B,)`, or None where no graph leads from them to the noise."""
    if not scores.requires_grad:
        return None
    return torch.autograd.grad(scores.sum(), noise, allow_unused=True)[0]
