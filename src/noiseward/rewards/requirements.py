r"""Requirements: what a result must meet, in addition to a reward that is as high as possible.

.. math:: \max_x \; r(x, c) \quad \text{such that} \quad c_i(x, c) \ge t_i \text{ for all } i

A sample that fails a requirement scores below all that meet them,

.. math:: -10^9 \, \bigl(1 + \sum_i v_i\bigr), \qquad v_i = \max(t_i - c_i, 0) / |t_i|,

so that whatever compares rewards prefers, without knowing of requirements, any sample that meets all to any that does
not, among the former the highest reward, and among the latter the one that lacks least. Best so far, searches,
targets, tests of plausibility and resumed runs all follow this order. (Without division where t is 0.)

*Gradient.* It is :math:`\nabla r + \sum_i \lambda_i \nabla c_i`, with multipliers of each row's own. A requirement that
is failed has

.. math:: \lambda_i = 2 \, \|\nabla r\| / \|\nabla c_i\|,

with which a small step along it lowers the violation, whatever the reward pulls at:
:math:`\langle \nabla r / \|\nabla r\| + 2 u, u \rangle \ge 1` for the unit vector u of :math:`\nabla c_i`. One that is
met by a twentieth or less turns back what leads out of it, the more the nearer it is,

.. math:: \lambda_i = 2 (1 - 20 s_i) \max(-\langle \nabla r, u \rangle, 0) / \|\nabla c_i\|, \qquad
    s_i = (c_i - t_i) / |t_i|,

so that a run goes along a bound, a fortieth inside it, rather than into it, which ascent that takes bad steps back
would stop at. One that is met by more has none. The multipliers depend on the sample alone: rows stay independent, and
there is nothing to store. Black-box requirements take part in the order only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, RewardError
from noiseward.rewards.reward import Composite, Reward, find_leaves, score
from noiseward.rewards.shortfall import FAILED

__all__ = ["Constrained", "Requirement"]

MOST = 1000.0  # the largest violation that is told from others
NEAR = 0.05  # what a requirement is met by, relative to its bound, where the gradient begins to avoid it
PULL = 2.0  # how much a failed requirement outweighs the reward


@final
@dataclasses.dataclass(frozen=True)
class Requirement:
    """A bound that a reward must meet.

    Arguments:
        reward: what is bounded; black boxes are welcome.
        bound: t.
        at_most: whether the reward must be at most t instead of at least.

    Raises:
        ArgumentError: a bound that is not finite.

    Example:
        >>> from noiseward.rewards.parse import make_reward
        >>> requirement = Requirement(make_reward("brightness"), 0.5)
        >>> requirement.name, requirement.shortfall(torch.tensor([0.4, 0.6])).tolist()
        ('brightness>=0.5', [0.19999998807907104, 0.0])
    """

    reward: Reward
    bound: float
    at_most: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound):
            raise ArgumentError(f"the bound of requirement '{self.reward.name}' must be finite, got {self.bound}")

    @property
    def name(self) -> str:
        """As in `clip>=0.25`."""
        bound = f"{self.bound:g}" if float(f"{self.bound:g}") == self.bound else repr(float(self.bound))
        return f"{self.reward.name}{'<=' if self.at_most else '>='}{bound}"

    def shortfall(self, scores: Tensor) -> Tensor:
        """How much is missing `(B,)`, relative to the bound; 0 where it is met."""
        return (-self.slack(scores)).clamp(0, MOST)

    def slack(self, scores: Tensor) -> Tensor:
        """By how much it is met `(B,)`, relative to the bound."""
        beyond = (self.bound - scores) if self.at_most else (scores - self.bound)
        return (beyond / (abs(self.bound) or 1.0)).nan_to_num(-MOST, MOST, -MOST)


@final
class _Bounded(Reward):
    """A reward under the name of its requirement."""

    def __init__(self, requirement: Requirement) -> None:
        self.reward, self.name = requirement.reward, requirement.name
        self.differentiable, self.statistic = self.reward.differentiable, self.reward.statistic

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return self.reward(sample, prompt)


@final
class Constrained(Composite):
    """A reward with requirements; what each of them scores is reported as a term.

    Arguments:
        reward: r.
        requirements: what a result must meet.

    Raises:
        ArgumentError: no requirement, or two with one name.

    Example:
        >>> from noiseward.rewards.parse import make_reward
        >>> red = make_reward("saturation")
        >>> reward = Constrained(red, [Requirement(make_reward("brightness"), 0.5)])
        >>> images = torch.zeros(2, 3, 4, 4)
        >>> images[1, 0] = 1
        >>> images[1, 1] = 0.8
        >>> reward(images, None).tolist()
        [-2000000000.0, 1.0]
    """

    def __init__(self, reward: Reward, requirements: Sequence[Requirement]) -> None:
        names = [*(part.name for part in find_leaves(reward)), *(one.name for one in requirements)]
        if not requirements:
            raise ArgumentError("expected a requirement, got none")
        if len(set(names)) < len(names):
            raise ArgumentError(f"requirements need different names, got {', '.join(names)}; give each once")
        self.reward, self.requirements = reward, tuple(requirements)
        self.bounded = tuple(map(_Bounded, requirements))
        self.name = f"{reward.name} with {' and '.join(one.name for one in requirements)}"
        self.differentiable = reward.differentiable

    @property
    def parts(self) -> tuple[Reward, ...]:
        return (self.reward, *self.bounded)

    @property
    def followed(self) -> tuple[Reward, ...]:
        return (self.reward,)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return self.score(sample, prompt)[0]

    def score(self, sample: Tensor, prompt: Sequence[str] | None) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.differentiable and torch.is_grad_enabled() and sample.requires_grad):
            with torch.no_grad():
                reward, terms = score(self.reward, sample, prompt)
                scores = [score(one, sample, prompt)[0].to(reward) for one in self.bounded]
            return self._order(reward, scores), {**terms, **self._named(scores)}
        terms: dict[str, Tensor] = {}
        return _Direction.apply(sample, self, prompt, terms), terms  # pyright: ignore[reportReturnType]

    def _named(self, scores: Sequence[Tensor]) -> dict[str, Tensor]:
        return {one.name: each.detach() for one, each in zip(self.requirements, scores, strict=True)}

    def _order(self, reward: Tensor, scores: Sequence[Tensor]) -> Tensor:
        """The reward where all is met, else what is missing."""
        missing = self._missing(scores).sum(0)
        if bool(((missing == 0) & (reward <= FAILED)).any()):
            raise RewardError(
                f"reward '{self.reward.name}' must be above {FAILED:g} next to requirements, got "
                f"{reward.min().item():.4g}; divide it by a constant"
            )
        reward = reward.to(torch.promote_types(reward.dtype, torch.float32))  # float16 ends at 65504
        failed = FAILED * (1 + missing.clamp(max=MOST).to(reward))
        return torch.where((missing > 0) & ~reward.isnan(), failed, reward)

    def _missing(self, scores: Sequence[Tensor]) -> Tensor:
        return torch.stack([one.shortfall(each.detach()) for one, each in zip(self.requirements, scores, strict=True)])


class _Direction(torch.autograd.Function):
    """The gradient is computed with the value and kept: backward only multiplies."""

    @staticmethod
    def forward(
        ctx: Any, sample: Tensor, whole: Constrained, prompt: Sequence[str] | None, terms: dict[str, Tensor]
    ) -> Tensor:
        with torch.enable_grad():
            leaf = sample.detach().requires_grad_(True)
            reward, own = score(whole.reward, leaf, prompt)
            own_gradient = direction = _gradient(reward, leaf)
            scores: list[Tensor] = []
            for one, bounded in zip(whole.requirements, whole.bounded, strict=True):
                with torch.set_grad_enabled(bounded.differentiable):
                    found = score(bounded, leaf, prompt)[0].to(reward)
                slack = one.slack(found.detach())
                if found.requires_grad and (slack < NEAR).any():
                    inward = _gradient(found, leaf) * (-1 if one.at_most else 1)
                    direction = direction + _pull(own_gradient, inward, slack.to(leaf))
                scores.append(found.detach())
        terms.update({name: term.detach() for name, term in own.items()} | whole._named(scores))
        ctx.save_for_backward(direction)
        return whole._order(reward.detach(), scores)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        (direction,) = ctx.saved_tensors
        return upstream.view(-1, *(1,) * (direction.ndim - 1)).to(direction) * direction, None, None, None


def _gradient(scores: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of each row's score; zero where it has none."""
    if not scores.requires_grad:
        return torch.zeros_like(leaf)
    found = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found


def _pull(reward: Tensor, inward: Tensor, slack: Tensor) -> Tensor:
    """What a requirement adds to the gradient of the reward.

    Arguments:
        reward: that gradient, `(B, *X)`.
        inward: the gradient towards what meets the requirement.
        slack: `(B,)`.
    """
    size, length = _norm(reward), _norm(inward)
    unit = inward / torch.where(length > 0, length, 1.0)
    out = -(reward * unit).flatten(1).sum(1).view_as(length)
    slack = slack.view_as(length)
    near = 2 * (1 - slack / NEAR).clamp(0, 1) * out.clamp(min=0)
    return torch.where(slack < 0, PULL * torch.where(size > 0, size, length), near) * unit


def _norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).norm(dim=1).view(-1, *(1,) * (gradient.ndim - 1))
