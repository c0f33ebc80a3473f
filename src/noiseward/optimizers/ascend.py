r"""Gradient ascent on noise: an estimator proposes a direction, a torch optimizer makes a step of it.

.. math::
    g = \mathrm{direction}(z), \qquad g \leftarrow g \min\{1, c / \|g\|\}, \qquad z \leftarrow \mathrm{update}(z, g),

row by row: each row is clipped by its own norm and has its own optimizer instance, since already a shared step counter
would let rows depend on each other. The instance is created at every step and given its state back as plain tensors, so
that a run can be resumed anywhere. A row whose direction is exactly zero is left unchanged, and so is its optimizer's
state: momentum alone does not change it. Constraints (`noise/project.py`) are imposed on g before it is clipped, and on
the new z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Seeds
from noiseward.noise.project import Projection
from noiseward.optimizers.candidates import check_positive
from noiseward.optimizers.gradient import Backprop, Estimator

__all__ = ["GradientAscent"]


@final
class GradientAscent(Optimizer):
    """Ascent along an estimator's direction.

    Arguments:
        estimator: where the direction comes from; default: `Backprop()`.
        update: a `torch.optim` class, or any factory `update(params, lr=)` of a `torch.optim.Optimizer` that steps
            without a closure. Weight decay must be 0: it pulls the noise off its shell.
        lr: its learning rate. 0.01 is the published implementation's.
        max_norm: each row's direction is scaled down to this norm, as published; None for no clipping.
        project: constraints on direction and noise, applied in order.

    Raises:
        ArgumentError: a rate that is not positive, or an optimizer that does not fit.

    Example:
        >>> import functools, torch
        >>> ascent = GradientAscent(update=functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True), lr=0.5)
        >>> GradientAscent(update=torch.optim.AdamW)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: update must not decay the noise, got AdamW with weight_decay=0.01; use Adam, ...
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
        check_positive(lr=lr)
        if max_norm is not None and not max_norm > 0:
            raise ArgumentError(f"max_norm must be > 0, got {max_norm}; pass None for no clipping")
        self.estimator, self.update, self.lr, self.max_norm = estimator or Backprop(), update, lr, max_norm
        self.project = tuple(project)
        self.random = self.estimator.random
        _check_update(update, lr)

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
        norm, nonzero = flat.norm(dim=1), flat.ne(0).any(1)
        if self.max_norm is not None:
            flat = flat * (self.max_norm / norm.clamp(min=self.max_norm))[:, None]
        direction = flat.view_as(direction)
        noises, states = [], []
        for row in range(noise.shape[0]):
            before = {name.removeprefix("update."): part[row] for name, part in state.items()}
            new, after = self._update_row(noise[row], direction[row], before)
            noises.append(new)
            states.append(after)
        new_state = {f"update.{name}": torch.stack([one[name] for one in states]) for name in states[0]}
        new_noise = torch.stack(noises)
        for projection in self.project:
            new_noise = projection.noise(new_noise, layout)
        for name in state.keys() & new_state.keys():
            new_state[name] = select_rows(nonzero, new_state[name], state[name])
        return Move(evaluation, select_rows(nonzero, new_noise, noise.detach()), new_state, {"grad_norm": norm})

    def _update_row(self, noise: Tensor, direction: Tensor, state: State) -> tuple[Tensor, State]:
        """One row's next noise, and its optimizer's next state."""
        leaf = noise.detach().clone().requires_grad_(True)
        optimizer = self.update([leaf], lr=self.lr)
        if state:
            optimizer.state[leaf] = {name: part.clone() for name, part in state.items()}
        leaf.grad = -direction  # torch's optimizers descend
        optimizer.step()
        after = {name: part for name, part in optimizer.state[leaf].items() if part is not None}
        return leaf.detach(), {name: torch.as_tensor(part) for name, part in after.items()}


def _check_update(update: Callable[..., Any], lr: float) -> None:
    """Make one step on two numbers, to refuse at construction what would fail later."""
    name = getattr(update, "__name__", None) or getattr(getattr(update, "func", update), "__name__", repr(update))
    leaf = torch.zeros(2, requires_grad=True)
    try:
        optimizer = update([leaf], lr=lr)
        leaf.grad = torch.ones(2)
        optimizer.step()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"update must be called as update(params, lr=) and step without a closure, got {name} ({error})"
        ) from None
    if decay := optimizer.defaults.get("weight_decay", 0):
        raise ArgumentError(
            f"update must not decay the noise, got {name} with weight_decay={decay:g}; use Adam, or "
            f"functools.partial({name}, weight_decay=0)"
        )
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ArgumentError(
            f"update must descend, got {name} with maximize=True; leave that out: it is given the negative gradient"
        )
    for key, part in optimizer.state[leaf].items():
        if part is not None and not isinstance(part, Tensor):
            kind = type(part).__name__
            raise ArgumentError(f"update must keep tensors as its state, got {name}, whose '{key}' is {kind}")
