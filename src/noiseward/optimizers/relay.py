r"""One optimizer after the other: search first, then climb.

Ascent is local: where it ends depends on where it starts. N fresh noises cost N runs of the sampler forward, as much as
N / 3 moves of backpropagation, and where rewards are Gaussian the best of many is about :math:`\sqrt{2 \log N}`
deviations above the mean. So a few may be worth trying before the climb begins. What comes out is still one noise that
was drawn as the sampler draws it, moved as far as the ascent moved it.

When not to use it: for a picture one wants to keep. It begins at the seed's noise, and if another one is better, with
another picture. Nor where every start can be climbed. On the built-in model it was level with plain ascent at equal
calls on four captions (`experiments/compare.py`), and ahead of it at equal time on eight that leave the background open
(`experiments/table1.py`): under two of three rewards at four seconds, under one of them at twenty.
"""

from __future__ import annotations

import dataclasses
from typing import final

from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.loop import Move, Optimizer, State
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Seeds

__all__ = ["Relay"]


@final
class Relay(Optimizer):
    """The first moves by one optimizer, all others by another, which starts anew where the first one got to.

    Arguments:
        first: for the first moves: a search, whose noise is the best it found.
        then: for those after.
        moves: how many the first one makes.

    Raises:
        ArgumentError: less than one move.

    Example:
        >>> from noiseward import BestOfN, Budget, GradientAscent, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start, relay = objective.sampler.init(2), Relay(BestOfN(8), GradientAscent(lr=0.1))
        >>> solution = optimize(objective, start, optimizer=relay, budget=Budget(steps=3))
        >>> solution.nfe  # 9 runs of 4 calls; two moves; one evaluation
        NFE(forward=48, backward=8, recomputed=0)
    """

    def __init__(self, first: Optimizer, then: Optimizer, *, moves: int = 1) -> None:
        if moves < 1:
            raise ArgumentError(f"moves={moves} given: at least 1 move before the other optimizer wanted")
        self.first, self.then, self.moves = first, then, moves

    def check(self, objective: Objective) -> None:
        self.first.check(objective)
        self.then.check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        if seeds.step >= self.moves:
            return self.then.step(objective, noise, state, seeds)
        move = self.first.step(objective, noise, state, seeds)
        return dataclasses.replace(move, state={}) if seeds.step == self.moves - 1 else move
