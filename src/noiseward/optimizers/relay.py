r"""One optimizer after the other: search first, then ascend.

Ascent is local: where it ends depends on where it starts. N fresh draws of noise cost N runs of the sampler forward, as
much as N / 3 steps of backpropagation, and where rewards are Gaussian the best of many is about :math:`\sqrt{2 \log N}`
deviations above the mean. So a few may be worth trying before the ascent begins. The result is still one noise that was
drawn as the sampler draws it, changed as far as the ascent changed it.

When not to use it: to improve one particular image, since it begins at the seed's noise and may end at another one; or
where every start can be improved. Measured in docs/compare.md.
"""

from __future__ import annotations

import dataclasses
from typing import final

from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.noise.layout import Seeds

__all__ = ["Relay"]


@final
class Relay(Optimizer):
    """The first steps by one optimizer, the others by another, which starts from the noise the first one reached.

    Arguments:
        first: for the first steps: a search, whose noise is the best it found.
        then: for those after.
        steps: how many steps the first one makes.

    Raises:
        ArgumentError: less than one step.

    Example:
        >>> from noiseward import BestOfN, Budget, GradientAscent, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start, relay = objective.sampler.init(2), Relay(BestOfN(8), GradientAscent(lr=0.1))
        >>> solution = optimize(objective, start, optimizer=relay, budget=Budget(steps=3))
        >>> solution.nfe  # 9 runs of 4 calls; two steps; one evaluation
        NFE(forward=48, backward=8, recomputed=0)
    """

    def __init__(self, first: Optimizer, then: Optimizer, *, steps: int = 1) -> None:
        if steps < 1:
            raise ArgumentError(f"steps must be >= 1, got {steps}")
        self.first, self.then, self.steps = first, then, steps

    def check(self, objective: Objective) -> None:
        self.first.check(objective)
        self.then.check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        if seeds.step >= self.steps:
            own = {name: part for name, part in state.items() if name != KNOWN}
            return self.then.step(objective, noise, own, seeds)
        move = self.first.step(objective, noise, state, seeds)
        kept = {name: part for name, part in move.state.items() if name == KNOWN}
        return dataclasses.replace(move, state=kept) if seeds.step == self.steps - 1 else move
