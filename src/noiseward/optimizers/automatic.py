r"""What to do where nobody says how: explore first, then refine, by what model and reward offer.

* With a gradient and noise at the sampler's steps, eight steps of tilting (`tilting.py`): guided runs, from the noise
  itself and from fresh noise by turns. Then steady ascent from the best of them (`steady.py`).
* With a gradient and no such noise, as with an ODE, sixteen fresh noises, and steady ascent from the best.
* Without a gradient, trust regions (`search.py`), whose first step draws fresh noise.

Where the seed's own image is to be improved, nothing fresh is drawn before the first step, and an ODE is ascended from
the start.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.noise.layout import Seeds
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.candidates import check_counts
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.steady import Steady
from noiseward.optimizers.tilting import Tilting

__all__ = ["Automatic"]

EXPLORE = 8  # steps of tilting


@final
class Automatic(Optimizer):
    """The optimizer that fits an objective.

    Arguments:
        keep_seed: keep the first draw, so that the result stays that of the seed.
        chunk: rows per call of the sampler where rows are tried without a gradient.

    Example:
        >>> from noiseward import Budget, Objective, Plausible, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> sampler = GaussianModel(steps=4, dim=64).sampler()
        >>> objective = Objective(sampler, Linear(1.0), plausible=Plausible())
        >>> Automatic().describe(objective)
        'guided runs for 8 steps, then steady gradient ascent from the best'
    """

    def __init__(self, *, keep_seed: bool = False, chunk: int = 16) -> None:
        check_counts(chunk=chunk)
        self.keep_seed, self.chunk = keep_seed, chunk

    def describe(self, objective: Objective) -> str:
        """What it does for an objective, in one line."""
        return self._choose(objective)[0]

    def check(self, objective: Objective) -> None:
        self._choose(objective)[1].check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        return self._choose(objective)[1].step(objective, noise, state, seeds)

    def _choose(self, objective: Objective) -> tuple[str, Optimizer]:
        ascent = Steady(GradientAscent())
        if not objective.reward.differentiable:
            if self.keep_seed:
                return "a search around the seed's noise", ZeroOrderSearch(chunk=self.chunk)
            return "trust regions around the best of 16 noises", TrustRegion(chunk=self.chunk)
        if any(draw.role == "step" and draw.movable for draw in objective.sampler.layout):
            first = Tilting(keep_seed=self.keep_seed, chunk=self.chunk)
            what = f"guided runs for {EXPLORE} steps, then steady gradient ascent from the best"
            return what, Relay(first, ascent, steps=EXPLORE)
        if self.keep_seed:
            return "steady gradient ascent", ascent
        return "steady gradient ascent from the best of 16 noises", Relay(BestOfN(chunk=self.chunk), ascent)
