"""The methods for those who name none: `auto`, and `refine` from a start that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noiseward.methods.recipe import CHUNK, KEEP_SEED, Recipe

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.rewards.reward import Reward

__all__ = ["AutoRecipe", "RefineRecipe"]


class AutoRecipe(Recipe, name="auto"):
    """What fits the model and the reward: exploration first, then refinement from the best, all within the tests."""

    keep_seed: bool = KEEP_SEED
    chunk: int = CHUNK

    def tries_candidates(self, differentiable: bool) -> bool:
        return not differentiable

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.automatic import Automatic

        return Automatic(keep_seed=self.keep_seed, chunk=self.chunk)


class RefineRecipe(Recipe, name="refine"):
    """Improve the start alone: steady gradient ascent, or a search around it where the reward has no gradient."""

    chunk: int = CHUNK

    def tries_candidates(self, differentiable: bool) -> bool:
        return not differentiable

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.automatic import Automatic

        return Automatic(explore=False, chunk=self.chunk)
