r"""What to do where nobody says how: explore first, then refine, by what model and reward offer.

* First nine fresh noises, next to the seed's: where luck is cheap, this is never behind it.
* With a gradient and noise at the sampler's steps, two guided runs (`tilting.py`), the first from the best noise so
  far, the second from fresh noise. They raise what the colors of an image decide at once.
* With a gradient, steady ascent from the best of all that (`steady.py`), until nothing more is gained.
* Without a gradient, trust regions around the best noises (`search.py`).

Where the seed's own image is to be improved, nothing fresh is drawn before the first denoising step.
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

FRESH, GUIDED = 9, 2  # candidates of the first step, and steps of tilting after it


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
        'the best of 10 noises, then 2 guided runs, then steady gradient ascent'
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
        if not objective.reward.differentiable and self.keep_seed:
            return "a search around the seed's noise", ZeroOrderSearch(chunk=self.chunk)
        if not objective.reward.differentiable:
            search = TrustRegion(FRESH, regions=3, chunk=self.chunk)
            return f"trust regions around the best of {FRESH + 1} noises", search
        chosen, first, parts = Steady(GradientAscent()), 0 if self.keep_seed else 1, ["steady gradient ascent"]
        if any(draw.role == "step" and draw.movable for draw in objective.sampler.layout):
            guided = Tilting(keep_seed=self.keep_seed, chunk=self.chunk)
            chosen, parts = Relay(guided, chosen, steps=first + GUIDED), [f"{GUIDED} guided runs", *parts]
        if not self.keep_seed:
            chosen = Relay(BestOfN(FRESH, chunk=self.chunk), chosen)
            parts = [f"the best of {FRESH + 1} noises", *parts]
        return ", then ".join(parts), chosen
