r"""Rewards: scores of samples. Higher is better, always.

A **reward** r gives each row of a batch one number, from that row's sample and prompt alone:
:math:`r(x, c) \in \mathbb{R}^B`. It is *differentiable* when gradients flow back to the sample, a *black box*
otherwise. Images come as `(B, 3, H, W)` in [0, 1], as the user will see them.

Two mistakes are easy to make in a reward and hard to see in a result, so they are checked: a reward that changes its
sample in place, and one whose score of a row depends on other rows (:func:`check_rows`).
"""

from __future__ import annotations

import abc
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, GradientError, RewardError
from noiseward.user_code import ErrorBoundary

__all__ = ["Composite", "FunctionReward", "Reward", "UnitGradient", "WeightedSum", "check_rows", "find_leaves", "score"]

_REAL = re.compile(r"float(16|32|64)|bfloat16|u?int\d+|bool")  # dtypes that can be computed with


class Reward(abc.ABC):
    """One number per row; higher is better.

    Attributes:
        name: in tables and logs.
        differentiable: whether gradients flow from the score to the sample.
        statistic: whether it is a plain statistic of pixels, such as contrast, which falls for legitimate reasons, too;
            a panel shows those and does not judge by them.

    Example:
        >>> class Redness(Reward):
        ...     name, differentiable = "redness", True
        ...     def __call__(self, sample, prompt):
        ...         return sample[:, 0].mean((1, 2))
        >>> import torch
        >>> Redness()(torch.ones(2, 3, 8, 8), None).tolist()
        [1.0, 1.0]
    """

    name: str
    differentiable: bool
    statistic: bool = False

    @abc.abstractmethod
    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        """The scores `(B,)` of samples `(B, *X)` for one prompt per row (None without prompts)."""


class Composite(Reward):
    """A reward made of rewards, which it reports as terms."""

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Reward, ...]:
        """The rewards it is made of."""

    @property
    def followed(self) -> tuple[Reward, ...]:
        """Those that need a gradient if the whole is to have one."""
        return self.parts

    @abc.abstractmethod
    def score(self, sample: Tensor, prompt: Sequence[str] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The total `(B,)`, and each part's own score by name."""


def find_leaves(reward: Reward) -> tuple[Reward, ...]:
    """The rewards that a reward is made of in the end: itself, if it is of one piece."""
    return (
        tuple(leaf for part in reward.parts for leaf in find_leaves(part))
        if isinstance(reward, Composite)
        else (reward,)
    )


@final
class FunctionReward(Reward):
    """A reward made of a function.

    Arguments:
        fn: `fn(sample)` or `fn(sample, prompt)`, returning one number per row. It gets a copy of the sample, so that it
            may work in place.
        differentiable: False for a function that leaves the graph: it is then called under `torch.no_grad()`.
        name: in tables; default: the function's own name.
        statistic: see `Reward`.

    Example:
        >>> import torch
        >>> reward = FunctionReward(lambda images: images[:, 0].mean((1, 2)), name="redness")
        >>> reward(torch.ones(2, 3, 8, 8), None).tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        differentiable: bool = True,
        *,
        name: str | None = None,
        statistic: bool = False,
    ) -> None:
        if not callable(fn):
            raise ArgumentError(f"expected a function of (sample) or (sample, prompt), got {fn!r}")
        self.name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self.differentiable, self.statistic = differentiable, statistic
        self._fn, self._takes_prompt = fn, _count_positional(fn) > 1

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        own = sample.clone()
        arguments = (own, prompt if prompt is None else list(prompt)) if self._takes_prompt else (own,)
        if self.differentiable:
            return self._fn(*arguments)
        with torch.no_grad():
            return self._fn(*arguments)


def _count_positional(fn: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:  # a builtin without a signature
        return 1
    return sum(p.kind in kinds and (p.default is p.empty or p.name == "prompt") for p in parameters)


@final
class UnitGradient(Reward):
    r"""A reward whose gradient is scaled to norm 1 in each row; its value stays as it is.

    .. math:: r(x), \qquad \nabla r(x) / \lVert \nabla r(x) \rVert

    Rewards of different units, cosines and kilobytes, then act on the sample by their weights alone. The result is a
    direction, not the gradient of any function: it does not agree with finite differences of the value, it does not
    shrink near a maximum, and a weight sets the length of a gradient, not the worth of an increase. A gradient of zero
    stays zero.

    Arguments:
        reward: one with a gradient.

    Example:
        >>> import torch
        >>> reward = UnitGradient(FunctionReward(lambda x: 100 * x.sum(1), name="steep"))
        >>> x = torch.zeros(1, 4, requires_grad=True)
        >>> torch.autograd.grad(reward(x, None).sum(), x)[0].tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """

    differentiable = True

    def __init__(self, reward: Reward) -> None:
        if not reward.differentiable:
            raise ArgumentError(f"reward '{reward.name}' has no gradient to normalize: leave it as it is")
        self.reward, self.name = reward, reward.name

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        if not (torch.is_grad_enabled() and sample.requires_grad):
            return _compute(self.reward, sample, prompt)
        return _Unit.apply(sample, self.reward, prompt)  # pyright: ignore[reportReturnType]


class _Unit(torch.autograd.Function):
    """The gradient is computed with the value, normalized, and kept: backward only multiplies."""

    @staticmethod
    def forward(ctx: Any, sample: Tensor, reward: Reward, prompt: Sequence[str] | None) -> Tensor:
        with torch.enable_grad():
            leaf = sample.detach().requires_grad_(True)
            scores = _compute(reward, leaf, prompt)
            if not scores.requires_grad:
                raise GradientError(
                    f"reward '{reward.name}' returned scores without a gradient: use differentiable operations, or "
                    "declare it a black box, differentiable=False"
                )
            (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        norm = gradient.flatten(1).norm(dim=1).view(-1, *(1,) * (sample.ndim - 1))
        ctx.save_for_backward(torch.where(norm > 0, gradient / norm.where(norm > 0, torch.ones_like(norm)), gradient))
        return scores.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (unit,) = ctx.saved_tensors
        return upstream.view(-1, *(1,) * (unit.ndim - 1)).to(unit) * unit, None, None


@final
class WeightedSum(Composite):
    r"""Several rewards at once, :math:`\sum_i w_i r_i`; each is reported as a term, unweighted.

    Arguments:
        rewards: the rewards and their weights.
        normalize: scale each gradient to norm 1 in each row, times its weight (`UnitGradient`). The value stays the
            weighted sum, and with it which step is the best.

    Example:
        >>> import torch
        >>> bright = FunctionReward(lambda x: x.mean((1, 2, 3)), name="bright")
        >>> red = FunctionReward(lambda x: x[:, 0].mean((1, 2)), name="red")
        >>> WeightedSum({bright: 1.0, red: -0.5})(torch.ones(1, 3, 8, 8), None).tolist()
        [0.5]
    """

    def __init__(self, rewards: Mapping[Reward, float], *, normalize: bool = False) -> None:
        if not rewards:
            raise ArgumentError("a weighted sum needs at least one reward, got none")
        for reward, weight in rewards.items():
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ArgumentError(f"the weight of reward '{reward.name}' must be finite, got {weight!r}")
        names = [reward.name for reward in rewards]
        if len(set(names)) < len(names):
            raise ArgumentError(f"rewards need different names, got {', '.join(names)}; name each differently")
        self.rewards = {UnitGradient(one) if normalize else one: weight for one, weight in rewards.items()}
        self.name = " + ".join(f"{weight:g} {reward.name}" for reward, weight in rewards.items())
        self.differentiable = all(reward.differentiable for reward in rewards)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return self.total(self.terms(sample, prompt))

    @property
    def parts(self) -> tuple[Reward, ...]:
        return tuple(self.rewards)

    def score(self, sample: Tensor, prompt: Sequence[str] | None) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self.terms(sample, prompt)
        return self.total(terms), terms

    def terms(self, sample: Tensor, prompt: Sequence[str] | None) -> dict[str, Tensor]:
        """Each reward's own score `(B,)`, by name, before weighting."""
        return {reward.name: _compute(reward, sample, prompt) for reward in self.rewards}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of these terms."""
        return torch.stack([weight * terms[reward.name] for reward, weight in self.rewards.items()]).sum(0)


def score(reward: Reward, sample: Tensor, prompt: Sequence[str] | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the total `(B,)` and its terms, checked.

    Raises:
        RewardError: the reward raised, or did not return one number per row.
    """
    if isinstance(reward, Composite):
        return reward.score(sample, prompt)
    total = _compute(reward, sample, prompt)
    return total, {reward.name: total}


def _compute(reward: Reward, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
    version = _version(sample)
    with ErrorBoundary(f"reward '{reward.name}'"):
        scores = reward(sample, prompt)
        if _version(sample) != version:
            raise RewardError(
                f"expected reward '{reward.name}' to leave the sample as it is, got one changed in place; work on a "
                "copy, as in sample - 0.5 instead of sample.sub_(0.5)"
            )
        return _to_scores(scores, reward.name, sample)


def _to_scores(scores: Any, name: str, sample: Tensor) -> Tensor:
    """A reward's result as real numbers `(B,)`."""
    rows = sample.shape[0]
    if not isinstance(scores, Tensor):
        try:
            scores = torch.as_tensor(scores, device=sample.device)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise RewardError(
                f"reward '{name}' must return one number per row, {rows} here, got {type(scores).__name__}"
            ) from None
    kind = str(scores.dtype).removeprefix("torch.")
    if scores.is_meta or scores.layout is not torch.strided or not _REAL.fullmatch(kind):
        got = "on the meta device" if scores.is_meta else f"of layout {scores.layout}".replace("torch.", "")
        got = f"of dtype {kind}" if not _REAL.fullmatch(kind) else got
        raise RewardError(
            f"reward '{name}' must return a dense tensor of real numbers, got one {got}: convert it, "
            "as by .to_dense(), .real or .float()"
        )
    if tuple(scores.shape) != (rows,):
        raise RewardError(
            f"reward '{name}' must return shape ({rows},) for {rows} rows, never an average over the batch, got shape "
            f"{tuple(scores.shape)}"
        )
    return scores if scores.is_floating_point() else scores.float()


def _version(sample: Tensor) -> int:
    """The number of in-place changes of a tensor."""
    return 0 if sample.is_inference() else sample._version


def check_rows(
    reward: Reward, sample: Tensor, prompt: Sequence[str] | None, terms: Mapping[str, Tensor] | None = None
) -> None:
    """Raise `RewardError` if the score of the first row depends on another row.

    A differentiable reward must give every other row a gradient of exactly zero in the score of the first. A black box
    must score the first row alone as it does in the batch, unless its scores vary by themselves, or it takes no other
    number of rows.

    Arguments:
        reward: to check.
        sample: `(B, *X)`, rows that differ.
        prompt: one per row, or None.
        terms: the scores of the sample, `(B,)` by the name of the reward, if they are known already.

    Example:
        >>> check_rows(FunctionReward(lambda x: x.mean(1) - x.mean(), name="centered"), torch.eye(2), None)
        Traceback (most recent call last):
        ...
        noiseward.errors.RewardError: expected reward 'centered' to score each row by itself, got ...
    """
    if sample.shape[0] < 2:
        return
    for part in find_leaves(reward):
        if part.differentiable:
            is_coupled = _has_cross_gradient(part, sample, prompt)
        else:
            scores = terms[part.name] if terms is not None else _compute(part, sample, prompt)
            is_coupled = _depends_on_batch(part, sample[:1], prompt and prompt[:1], scores)
        if is_coupled:
            raise RewardError(
                f"expected reward '{part.name}' to score each row by itself, got a score of the first row that changes "
                "with the others; call .eval() on its modules (batch normalization), and take no mean over the batch"
            )


def _has_cross_gradient(reward: Reward, sample: Tensor, prompt: Sequence[str] | None) -> bool:
    """Whether the score of the first row has a gradient to another row."""
    with torch.enable_grad():
        leaf = sample.detach().clone().requires_grad_(True)
        first = _compute(reward, leaf, prompt)[0]
        gradient = torch.autograd.grad(first, leaf, allow_unused=True)[0] if first.requires_grad else None
    return gradient is not None and bool(first.isfinite()) and bool(gradient[1:].nan_to_num().any())


def _depends_on_batch(reward: Reward, row: Tensor, prompt: Sequence[str] | None, scores: Tensor) -> bool:
    """Whether the score of the first row alone differs from the one in the batch by more than rounding."""
    try:
        alone, again = (float(_compute(reward, row.detach(), prompt)) for _ in range(2))
    except RewardError:
        return False
    one, other = scores[:2].tolist()
    if alone != again or not math.isfinite(alone + one + other):
        return False
    return abs(one - alone) > 1e-3 * abs(one - other) + 1e-4 * abs(alone)
