"""Methods that act while the sampler runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from noiseward.methods.recipe import CHUNK, KEEP_SEED, Recipe
from noiseward.options.option import option

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.rewards.reward import Reward

__all__ = ["DPSRecipe", "FKRecipe", "LGDRecipe", "NTRKRecipe"]


class FKRecipe(Recipe, name="fk", needs=("step noise",), paper="https://arxiv.org/abs/2501.06848"):
    """Feynman-Kac steering: particles that are resampled by reward on the way; the best of several runs."""

    particles: int = option(4, ge=2, help="Particles per run.")
    scale: float = option(10.0, gt=0, help="How strongly the reward decides who is resampled.")
    potential: Literal["difference", "max"] = option("difference", help="What a particle's weight follows.")
    every: float = option(0.2, gt=0, le=0.5, help="Share of the run between two resamplings.")
    adaptive: bool = option(True, help="Resample only where few particles hold most of the weight.")
    chunk: int = CHUNK

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import FKSteering, Guided

        guide = FKSteering(
            self.particles, scale=self.scale, potential=self.potential, every=self.every, adaptive=self.adaptive
        )
        return Guided(guide, samples=self.particles, chunk=self.chunk)


class DPSRecipe(Recipe, name="dps", needs=("gradient", "step noise"), paper="https://arxiv.org/abs/2209.14687"):
    """Diffusion posterior sampling: each denoising step follows the reward's gradient; the best of several runs."""

    scale: float = option(1.0, gt=0, help="Length of a guiding step.")
    normalize: bool = option(True, help="Scale each row's gradient to norm 1.")
    samples: int = option(4, ge=1, help="Runs per step.")
    chunk: int = CHUNK

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import DPS, Guided

        return Guided(DPS(self.scale, normalize=self.normalize), samples=self.samples, chunk=self.chunk)


class LGDRecipe(
    DPSRecipe, name="lgd", needs=("gradient", "step noise"), paper="https://proceedings.mlr.press/v202/song23k.html"
):
    """Loss-guided diffusion: as dps, with the reward averaged over several guesses; the best of several runs."""

    votes: int = option(10, ge=1, help="Guesses that are averaged.")
    length: float = option(1.0, gt=0, help="Length of a normalized correction.")

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import LGD, Guided

        guide = LGD(self.votes, scale=self.scale, normalize=self.normalize, length=self.length)
        return Guided(guide, samples=self.samples, chunk=self.chunk)


class NTRKRecipe(Recipe, name="ntrk", needs=("gradient", "step noise"), paper="https://arxiv.org/abs/2606.18066"):
    """Noise tilting: each step's noise turned towards the whitened gradient, as far as the tests allow."""

    share: float = option(0.1, gt=0, le=0.4, help="Share of each step's variance that follows the gradient, at first.")
    keep_seed: bool = KEEP_SEED
    chunk: int = CHUNK

    def tries_candidates(self, differentiable: bool) -> bool:
        return False

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.tilting import Tilting

        return Tilting(self.share, keep_seed=self.keep_seed, chunk=self.chunk)
