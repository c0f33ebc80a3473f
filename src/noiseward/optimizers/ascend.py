r"""Gradient ascent on noise: an estimator proposes a direction, a torch optimizer makes a step of it.

.. math::
    g = \mathrm{direction}(z), \qquad g \leftarrow g \min\{1, c / \|g\|\}, \qquad z \leftarrow \mathrm{update}(z, g),

row by row: each row is clipped by its own norm and has its own optimizer instance, since already a shared step counter
would let rows depend on each other. The instance is made anew at every step and given its state back as plain tensors,
so that a run can be resumed anywhere. A row whose direction is exactly zero stays where it is, and so does its
optimizer's state: momentum alone does not move it. Constraints (`project.py`) are imposed on g before it is clipped,
and on the new z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.loop import Move, Optimizer, State, select_rows
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Seeds
from noiseward.noise.project import Projection
from noiseward.optimizers.gradient import Backprop, Estimator

__all__ = ["GradientAscent"]


@final
class GradientAscent(Optimizer):
    """Ascent along an estimator's direction.

    Arguments:
        estimator: where the direction comes from.
        update: a `torch.optim` class, or any factory `update(params, lr=)` of a `torch.optim.Optimizer` that steps
            without a closure. Weight decay must be 0: it pulls the noise off its shell.
        lr: its learning rate. 0.01 is the published implementation's.
        max_norm: each row's direction is scaled down to this norm, as published; None for no clipping.
        project: constraints on direction and noise (see `project.py`), applied in order.

    Raises:
        ArgumentError: a rate that is not positive, or an optimizer that does not fit.

    Example:
        >>> import functools, torch
        >>> ascent = GradientAscent(update=functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True), lr=0.5)
        >>> GradientAscent(update=torch.optim.AdamW)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: AdamW decays the noise (weight_decay=0.01): use Adam, or ...
    """

    def __init__(
        self,
        estimator: Estimator | None = None,
        *,
        update: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr: float = 0.01,
        max_norm: float | None = 1.0,
        project: Sequence[Projection] = (),
    ) -> None:
        if not (lr > 0 and lr < float("inf")):
            raise ArgumentError(f"lr={lr} given: a positive number wanted")
        if max_norm is not None and not max_norm > 0:
            raise ArgumentError(f"max_norm={max_norm} given: a positive number, or None for no clipping, wanted")
        self.estimator, self.update, self.lr, self.max_norm = estimator or Backprop(), update, lr, max_norm
        self.project = tuple(project)
        _fits(update, lr)

    def check(self, objective: Objective) -> None:
        self.estimator.check(objective.reward)
        for projection in self.project:
            projection.check(objective.sampler.layout)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        evaluation, direction = self.estimator(objective, noise, seeds)
        layout = objective.sampler.layout
        for projection in self.project:
            direction = projection.direction(direction, layout)
        flat = direction.flatten(1)
        norm, pulled = flat.norm(dim=1), flat.ne(0).any(1)
        if self.max_norm is not None:
            flat = flat * (self.max_norm / norm.clamp(min=self.max_norm))[:, None]
        direction = flat.view_as(direction)
        moved, states = [], []
        for row in range(noise.shape[0]):
            inner = {name.removeprefix("update."): part[row] for name, part in state.items()}
            new, kept = self._move(noise[row], direction[row], inner)
            moved.append(new)
            states.append(kept)
        merged = {f"update.{name}": torch.stack([kept[name] for kept in states]) for name in states[0]}
        after = torch.stack(moved)
        for projection in self.project:
            after = projection.noise(after, layout)
        merged |= {name: select_rows(pulled, part, state[name]) for name, part in merged.items() if name in state}
        return Move(evaluation, select_rows(pulled, after, noise.detach()), merged, {"grad_norm": norm})

    def _move(self, noise: Tensor, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """One row's step: its next noise and the optimizer's next state."""
        leaf = noise.detach().clone().requires_grad_(True)
        optimizer = self.update([leaf], lr=self.lr)
        if state:
            optimizer.state[leaf] = {name: part.clone() for name, part in state.items()}
        leaf.grad = -direction  # torch's optimizers descend
        optimizer.step()
        kept = {name: part for name, part in optimizer.state[leaf].items() if part is not None}
        return leaf.detach(), {name: torch.as_tensor(part) for name, part in kept.items()}


def _fits(update: Callable[..., Any], lr: float) -> None:
    """Make one step on a number, to refuse at construction what would fail later."""
    name = getattr(update, "__name__", None) or getattr(getattr(update, "func", update), "__name__", repr(update))
    leaf = torch.zeros(2, requires_grad=True)
    try:
        optimizer = update([leaf], lr=lr)
        leaf.grad = torch.ones(2)
        optimizer.step()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name} does not fit: it must be made as update(params, lr=) and step without a closure ({error})"
        ) from None
    decay = optimizer.defaults.get("weight_decay", 0)
    if decay:
        raise ArgumentError(
            f"{name} decays the noise (weight_decay={decay:g}): use Adam, or functools.partial({name}, weight_decay=0)"
        )
    for key, part in optimizer.state[leaf].items():
        if part is not None and not isinstance(part, Tensor):
            raise ArgumentError(f"{name} does not fit: its state '{key}' is {type(part).__name__}, not a tensor")
