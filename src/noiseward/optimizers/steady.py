r"""Steady ascent: undo a step that does not improve or fails a test, and adapt the step length to the model.

How long a step may be depends on the model, on the reward and on the row, by factors of ten. So it is not fixed: from a
center c with the proposal p of another optimizer the next noise is

.. math:: z = c + s \, (p - c),

and the outcome decides s. If the value is higher and the tests pass (`loop/plausible.py`), z is the next center and s
grows by half. If not, the center and its optimizer's state stay as they are, and s shrinks to 0.4 of what it was.
Before a step is made, s shrinks until its noise passes the strict test, which needs no sampling. A row whose s has
become too small to matter has settled; so has a row whose proposal is its center, unless proposals are random.

Without tests to pass, the other optimizer's steps are made as they are.
"""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor

from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.loop.plausible import Plausible
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Layout, Seeds
from noiseward.noise.typicality import strict_probability

__all__ = ["Steady"]

GROWTH, SHRINKAGE, LEAST = 1.5, 0.4, 0.01


@final
class Steady(Optimizer):
    """Another optimizer's steps, with back-off.

    Arguments:
        ascent: proposes steps; an optimizer whose next noise is a small step from the last.

    Example:
        >>> from noiseward import Budget, GradientAscent, Objective, Plausible, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> sampler = GaussianModel(steps=4, dim=64).sampler()
        >>> objective = Objective(sampler, Linear(1.0), plausible=Plausible(image=0.01))
        >>> ascent = Steady(GradientAscent(lr=0.1))
        >>> solution = optimize(objective, sampler.init(2), optimizer=ascent, budget=Budget(steps=20))
        >>> bool((solution.gain > 0).all()), all(p > 0.001 for p in solution.strict_probability)
        (True, True)
    """

    def __init__(self, ascent: Optimizer) -> None:
        self.ascent = ascent

    def check(self, objective: Objective) -> None:
        self.ascent.check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        if (tests := objective.plausible) is None:
            return self.ascent.step(objective, noise, state, seeds)
        inner = {name.removeprefix("ascent."): part for name, part in state.items() if name.startswith("ascent.")}
        move = self.ascent.step(objective, noise, inner, seeds)
        value, device = move.evaluation.value.detach(), noise.device
        if state:  # rewards may be computed elsewhere than the noise is
            state = {**state, **{name: state[name].to(value.device) for name in ("value", "scale")}}
        higher = value.isfinite() & (value > state["value"] if state else torch.ones_like(value, dtype=torch.bool))
        verdict = objective.test(noise, move.evaluation.state, higher) if state else None
        if verdict is not None:
            passed = tests.passes(verdict.strict, verdict.image).to(device)
            # where a random direction was zero, the center itself came back, with another one
            back = (noise == state["center"]).flatten(1).all(1)
            accepted = (higher.to(device) & passed) | (back & self.ascent.random)
            grown = higher.to(device) & accepted
        else:  # the start is the first center, whatever the tests say of it
            accepted = torch.ones(len(value), dtype=torch.bool, device=device)
            grown = ~accepted
            state = {"center": noise, "ahead": move.noise, "value": value, "scale": torch.ones_like(value)}
            state |= {f"ascent.{name}": part for name, part in move.state.items()}
        scale = torch.where(grown.to(state["scale"].device), state["scale"] * GROWTH, state["scale"])
        new = {"center": noise, "ahead": move.noise, "value": value, "scale": scale}
        new |= {f"ascent.{name}": part for name, part in move.state.items()}
        old = {**state, "scale": state["scale"] * SHRINKAGE}
        after = {name: select_rows(accepted, part, old[name]) if name in old else part for name, part in new.items()}
        ahead, scale = _shorten(after["center"], after["ahead"], after["scale"], tests, objective.sampler.layout)
        still = (after["ahead"] == after["center"]).flatten(1).all(1)
        settled = (scale < LEAST).to(device) if self.ascent.random else still | (scale < LEAST).to(device)
        return dataclasses.replace(
            move, noise=ahead, state={**after, "scale": scale}, verdict=verdict, settled=settled.cpu()
        )


def _shorten(center: Tensor, ahead: Tensor, scale: Tensor, tests: Plausible, layout: Layout) -> tuple[Tensor, Tensor]:
    """The next noise and its scale, short enough that the noise passes the strict test."""

    def place(scale: Tensor) -> Tensor:
        return center + scale.to(center).view(-1, *(1,) * (center.ndim - 1)) * (ahead - center)

    least = strict_probability(center, layout)[0].clamp(max=tests.strict)
    while True:
        new = place(scale)
        fails = (strict_probability(new, layout)[0] < least.to(new.device)).to(scale.device) & (scale >= LEAST)
        if not fails.any():
            return new, scale
        scale = torch.where(fails, scale * SHRINKAGE, scale)
