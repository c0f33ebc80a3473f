r"""The default method: explore first, then refine, by whatever model and reward offer.

* First eight fresh noises, next to the seed's: the best that passes the tests. With the image test that makes the cost
  of twelve samples, and where luck is cheap, it is not behind luck.
* With a gradient and noise at the sampler's steps, two guided runs (`tilting.py`), the first from the best noise so
  far, the second from fresh noise. They raise what the colors of an image decide at once.
* With a gradient, steady ascent from the best of all that (`steady.py`), until nothing more is gained. Where the budget
  is in seconds or denoiser calls, then again from fresh noise, until it is spent (`restarting.py`).
* Without a gradient, trust regions around the best noises (`search.py`).

Where the seed's own image is to be improved, nothing fresh is drawn before the first denoising step. Without
exploration there is refinement alone: of a start that was chosen.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import GradientError, TapeError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.noise.layout import Seeds
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.candidates import check_counts
from noiseward.optimizers.restarting import Restarting
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.steady import Steady
from noiseward.optimizers.tilting import Tilting
from noiseward.rewards.reward import score
from noiseward.samplers.entries import plain_prompts
from noiseward.samplers.sampler import expand_prompts

__all__ = ["Automatic"]

LUCKY, GUIDED = 8, 2  # candidates of the first step, and steps of tilting after it


@final
class Automatic(Optimizer):
    """The optimizer that fits an objective.

    Arguments:
        keep_seed: keep the first draw, so that the result stays that of the seed.
        explore: draw fresh noise first; without, only the start is refined.
        chunk: rows per call of the sampler where rows are tried without a gradient.

    Example:
        >>> from noiseward import Budget, Objective, Plausible, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> sampler = GaussianModel(steps=4, dim=64).sampler()
        >>> objective = Objective(sampler, Linear(1.0), plausible=Plausible())
        >>> Automatic().describe(objective)
        'the best of 9 noises, 2 guided runs, then steady gradient ascent'
    """

    def __init__(self, *, keep_seed: bool = False, explore: bool = True, chunk: int = 16) -> None:
        check_counts(chunk=chunk)
        self.keep_seed, self.explore, self.chunk = keep_seed, explore, chunk

    def describe(self, objective: Objective) -> str:
        parts = [what for what, _, _ in self._stages(objective)]
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, then {parts[-1]}"

    def check(self, objective: Objective) -> None:
        for _, _, optimizer in self._stages(objective):
            optimizer.check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        stages = self._stages(objective)
        ends = itertools.accumulate(math.inf if steps is None else steps for _, steps, _ in stages)
        optimizer = next(one for (_, _, one), end in zip(stages, ends, strict=True) if seeds.step < end)
        ascent = stages[-1][2]
        if isinstance(optimizer, Tilting) and (state.keys() <= {KNOWN} or optimizer.owns(state)):
            with contextlib.suppress(TapeError, GradientError):  # what cannot be guided shows when it is tried
                return optimizer.step(objective, noise, state, seeds)
        if isinstance(optimizer, BestOfN | TrustRegion | ZeroOrderSearch):
            move = optimizer.step(objective, noise, state, seeds)
            if objective.reward.differentiable and seeds.step == 0:
                _require_gradient(objective, move)
            return move
        other = Tilting.owns(state) or KNOWN in state  # another's state
        return ascent.step(objective, noise, {} if other else state, seeds)

    def _stages(self, objective: Objective) -> list[tuple[str, int | None, Optimizer]]:
        """What is done, for how many steps, and by what."""
        luck, name = f"the best of {LUCKY + 1} noises", objective.reward.name
        if not objective.reward.differentiable:
            why = f", since reward '{name}' has no gradient"
            if self.keep_seed or not self.explore:
                whose = "seed's noise" if self.explore else "start"
                return [(f"a search around the {whose}{why}", None, ZeroOrderSearch(chunk=self.chunk))]
            return [(f"trust regions around {luck}{why}", None, TrustRegion(LUCKY, regions=3, chunk=self.chunk))]
        stages: list[tuple[str, int | None, Optimizer]] = []
        if self.explore and not self.keep_seed:
            stages.append((luck, 1, BestOfN(LUCKY, chunk=self.chunk)))
        if self.explore and any(draw.role == "step" and draw.movable for draw in objective.sampler.layout):
            guided = Tilting(keep_seed=self.keep_seed, chunk=self.chunk)
            stages.append((f"{GUIDED} guided runs", GUIDED, guided))
        ascent = Steady(GradientAscent())
        can_restart = self.explore and not self.keep_seed
        return [*stages, ("steady gradient ascent", None, Restarting(ascent) if can_restart else ascent)]


def _require_gradient(objective: Objective, move: Move) -> None:
    """Raise `GradientError` now, rather than at the first guided run, if a reward has not the gradient it declares."""
    sample = move.evaluation.sample.detach().clone().requires_grad_()  # may be an inference tensor
    prompts = plain_prompts(expand_prompts(objective.prompt, len(sample)))
    with torch.enable_grad():
        if not score(objective.reward, sample, prompts)[0].requires_grad:
            raise GradientError(
                f"reward '{objective.reward.name}' returned a score without a gradient: it detaches its input, leaves "
                "torch, or should be declared differentiable=False"
            )
