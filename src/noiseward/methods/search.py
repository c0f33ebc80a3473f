"""Methods that compare candidates and need no gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from noiseward.methods.recipe import CHUNK, Recipe, load
from noiseward.options.option import option

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.rewards.reward import Reward

__all__ = ["BestOfNRecipe", "EvolutionRecipe", "SearchRecipe", "TrustRegionRecipe", "WalkRecipe", "ZeroOrderRecipe"]


class SearchRecipe(Recipe):
    """A method that compares candidates and needs no gradient.

    Attributes:
        home: the class that does it, which takes the recipe's own options.
    """

    home: ClassVar[str]
    samples: int = option(16, ge=1, help="Candidates per step.")

    def optimizer(self, reward: Reward) -> Optimizer:
        return load(self.home)(**{name: getattr(self, name) for name in self.own()})


class BestOfNRecipe(SearchRecipe, name="best-of-n"):
    """Fresh noise in every step: the baseline every method should beat."""

    home = "optimizers.search:BestOfN"
    default_guard = "none"  # it makes nothing but the model's own samples
    chunk: int = CHUNK


class ZeroOrderRecipe(SearchRecipe, name="zero-order", paper="https://arxiv.org/abs/2501.09732"):
    """The best of some neighbors on the sphere, step by step."""

    home = "optimizers.search:ZeroOrderSearch"
    cosine: float = option(0.95, ge=0, lt=1, help="Cosine of the angle between a noise and its neighbors.")
    chunk: int = CHUNK


class TrustRegionRecipe(SearchRecipe, name="trust-region", paper="https://arxiv.org/abs/2603.14504"):
    """Neighbors in several regions, which grow where they succeed and shrink where they fail."""

    home = "optimizers.search:TrustRegion"
    regions: int = option(4, ge=1, help="Regions per row.")
    sine: float = option(0.4, gt=0, le=1, help="Sine of the angle of a region at the start.")
    chunk: int = CHUNK


class EvolutionRecipe(SearchRecipe, name="evolution", paper="https://arxiv.org/abs/2506.00299"):
    """Rotations of the noise's channels, the better ones combined."""

    home = "optimizers.evolve:ChannelEvolution"
    scale: float = option(0.2, gt=0, help="Size of a rotation.")
    chunk: int = CHUNK


class WalkRecipe(Recipe, name="walk"):
    """One neighbor on the sphere at a time, at an angle that adapts, from the best of some fresh noises."""

    sine: float = option(0.4, ge=0.01, le=0.95, help="Sine of the angle at the start.")
    best_of: int = option(9, ge=0, help="Fresh noises to try in the first step; 0: begin with the seed's own noise.")

    def tries_candidates(self, differentiable: bool) -> bool:
        return False

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.relay import Relay
        from noiseward.optimizers.search import BestOfN
        from noiseward.optimizers.walk import Walk

        walk = Walk(self.sine)
        return walk if self.best_of == 0 else Relay(BestOfN(self.best_of), walk)
