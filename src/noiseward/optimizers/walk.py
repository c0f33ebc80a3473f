r"""A walk: one neighbor at a time, at an angle that adapts; no gradient.

From a center the walk turns to a neighbor on the sphere (`search.turn`) and evaluates it, the whole step. Where it
scores higher and passes the tests, it is the next center; elsewhere the center stays:

.. math:: z' = \|z\| \, \frac{u}{\|u\|}, \qquad u = \cos\alpha \, z + \sin\alpha \, \xi, \qquad \xi \sim N(0, I).

:math:`\sin\alpha` grows by half with a success and falls by a tenth without, so that one neighbor in five succeeds: the
rule of the (1+1) evolution strategy. Searches with many candidates per step (`search.py`) use one of them and forget
the others; a walk uses what it learns at once, and never evaluates its center again.

What a step costs, per row: one run of the sampler, and where it scores higher the image test. When not to use it: where
runs side by side are nearly free, as in large batches on a GPU or with a reward on another machine; its steps come one
after the other.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import draw_movable
from noiseward.optimizers.search import turn

__all__ = ["Walk"]

GROWTH, SHRINKAGE = 1.5, 0.9  # in balance where a share of log(1 / 0.9) / log(1.5 / 0.9) = 0.206 succeeds
SINES = (0.01, 0.95)


@final
class Walk(Optimizer):
    """One neighbor on the sphere per step.

    Arguments:
        sine: of the first angle.

    References:
        Evolutionsstrategie (Rechenberg, 1973), for the rule of one fifth

    Example:
        >>> from noiseward import Budget, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4, dim=64).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2)
        >>> solution = optimize(objective, start, optimizer=Walk(), budget=Budget(steps=30))
        >>> bool((solution.gain > 0).all()), solution.nfe.forward
        (True, 124)
    """

    random = True

    def __init__(self, sine: float = 0.4) -> None:
        if not SINES[0] <= sine <= SINES[1]:
            raise ArgumentError(f"sine must be in [{SINES[0]}, {SINES[1]}], got {sine}")
        self.sine = sine

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        with torch.no_grad():
            evaluation = objective(noise)
        value = evaluation.value.double().cpu()
        if state:  # a resumed run has it where the noise is
            state = {name: part if name == "center" else part.cpu() for name, part in state.items()}
            accepted = value > state["value"]
            verdict = objective.test(noise, evaluation.state, accepted)
            if verdict is not None and objective.plausible is not None:
                accepted = accepted & objective.plausible.passes(verdict.strict, verdict.image)
        else:  # the start is the first center, whatever the tests say of it
            state = {"center": noise, "value": value, "sine": torch.full_like(value, self.sine / GROWTH)}
            accepted, verdict = torch.ones_like(value, dtype=torch.bool), None
        center = select_rows(accepted, noise, state["center"])
        sine = torch.where(accepted, state["sine"] * GROWTH, state["sine"] * SHRINKAGE).clamp(*SINES)
        after = {"center": center, "value": torch.where(accepted, value, state["value"]), "sine": sine}
        layout = objective.sampler.layout
        neighbors = [
            turn(center[row], draw_movable(center, layout, seeds, row, "neighbor"), math.asin(float(sine[row])), layout)
            for row in range(len(center))
        ]
        return Move(evaluation, torch.stack(neighbors), after, verdict=verdict)
