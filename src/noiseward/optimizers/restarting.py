r"""Restarts: where nothing more is to be gained from a noise, begin at another one.

Steady ascent (`steady.py`) ends at the top of the hill it began on, or at the edge of what the tests allow. More budget
is worth more elsewhere. So a row that has settled gets a new center: of a few fresh noises, one per step, the best that
passes the tests; then the ascent begins there. The best of all rounds is what counts, and the loop keeps it.

Each of these *scouts* is evaluated by a step like any other, gradient included, although its value would be enough: so
every step costs every row the same, and what a row gains under a budget does not depend on its neighbors.

A row ends where it would begin again if the budget is a number of steps, which is the most there may be. A budget in
seconds or denoiser calls says what may be spent, and is.
"""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor

from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import check_counts, draw_movable, keep_fixed
from noiseward.optimizers.steady import Steady

__all__ = ["Restarting"]

LEFT = "scouts"


@final
class Restarting(Optimizer):
    """Steady ascent that begins again elsewhere.

    Arguments:
        steady: the ascent.
        scouts: fresh noises that are tried before each ascent but the first.

    Example:
        >>> from noiseward import Budget, FunctionReward, GradientAscent, Objective, Plausible, Steady, optimize
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=4, dim=4).sampler()
        >>> hills = FunctionReward(lambda x: (5 * x[:, 0]).cos() + x[:, 0], name="hills")
        >>> objective = Objective(sampler, hills, plausible=Plausible(strict=1e-6, image=0.0))
        >>> ascent = Steady(GradientAscent(lr=0.1))
        >>> start = sampler.init(4)
        >>> once = optimize(objective, start, optimizer=ascent, budget=Budget(nfe=1200))
        >>> often = optimize(objective, start, optimizer=Restarting(ascent), budget=Budget(nfe=1200))
        >>> bool((often.reward >= once.reward).all() and (often.reward > once.reward).any())
        True
    """

    def __init__(self, steady: Steady, *, scouts: int = 4) -> None:
        check_counts(scouts=scouts)
        self.steady, self.scouts = steady, scouts

    def check(self, objective: Objective) -> None:
        self.steady.check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        rows = len(noise)
        left = state[LEFT].cpu() if LEFT in state else torch.zeros(rows, dtype=torch.int64)
        own = {name: part for name, part in state.items() if name != LEFT}
        scouting = left > 0
        move = self.steady.step(objective, noise, _reset(own, scouting), seeds)
        settled = move.settled
        if settled is None:  # nothing has to be plausible, and nothing settles
            return move
        worse = scouting & (move.state["center"] != noise).flatten(1).any(1).cpu()
        momentum = {
            name: select_rows(worse, own[name], part) for name, part in move.state.items()
            if name.startswith("ascent.") and name in own
        }  # fmt: skip
        move = dataclasses.replace(move, state={**move.state, **momentum})
        left = (left - 1).clamp(min=0)
        again = settled.cpu() & (left == 0)
        left = torch.where(again, self.scouts, left)
        if not (left > 0).any():
            return dataclasses.replace(move, state={**move.state, LEFT: left}, settled=None, restarts=again)
        layout = objective.sampler.layout
        fresh = torch.stack([
            keep_fixed(draw_movable(noise, layout, seeds, row, "scout"), noise[row], layout) if left[row] else one
            for row, one in enumerate(move.noise)
        ])  # fmt: skip
        new = {**move.state, LEFT: left}
        for name, part in (("center", fresh), ("ahead", fresh), ("value", torch.full_like(new["value"], -torch.inf))):
            new[name] = select_rows(again, part, new[name])
        return dataclasses.replace(move, noise=fresh, state=new, settled=None, restarts=again)


def _reset(state: State, rows: Tensor) -> State:
    """The state with some rows as at the start of a run: a full step, and no momentum."""
    if not rows.any():
        return state
    start = {
        name: torch.ones_like(part) if name == "scale" else torch.zeros_like(part)
        for name, part in state.items() if name == "scale" or name.startswith("ascent.")
    }  # fmt: skip
    return {**state, **{name: select_rows(rows, part, state[name]) for name, part in start.items()}}
