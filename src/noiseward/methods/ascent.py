"""Methods that follow gradients, or what stands in for them: DNO, ReNO and pCNL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from noiseward.methods.recipe import ESTIMATORS, PROJECTIONS, Method, Recipe, load_parts
from noiseward.options.option import option
from noiseward.options.parts import PartText, build_part

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.rewards.reward import Reward

__all__ = ["DNORecipe", "PCNLRecipe", "ReNORecipe"]


class DNORecipe(Recipe, name="dno", needs=("gradient",), paper="https://arxiv.org/abs/2405.18881"):
    """Direct Noise Optimization: Adam on the noise of every step. dno:paper has the paper's rate and guard."""

    presets: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "paper": {"lr": "0.01", "guard": "concentration:weight=1.0"},
    }
    lr: float = option(0.01, gt=0, help="Learning rate of Adam.")
    estimator: PartText = option(
        None,
        help="Where directions come from: backprop, annealed, hybrid2, hybrid1, zeroth-order. Default: backprop, or "
        "hybrid2 for a reward without a gradient.",
    )
    project: str | None = option(
        None,
        help="Keep each draw on its sphere (norm) or white (spectral), or change the first draw alone (start); with + "
        "between several.",
    )
    best_of: int | None = option(
        None, ge=1, help="Try this many fresh noises in the first step and continue from the best."
    )

    def tries_candidates(self, differentiable: bool) -> bool:
        return str(self.resolve(differentiable).estimator).partition(":")[0] != "backprop"

    def resolve(self, differentiable: bool) -> DNORecipe:
        default = "backprop" if differentiable else "hybrid2"
        return self if self.estimator is not None else self.replace(estimator=default)

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.ascend import GradientAscent
        from noiseward.optimizers.relay import Relay
        from noiseward.optimizers.search import BestOfN
        from noiseward.optimizers.steady import Steady

        estimator = self.resolve(reward.differentiable).estimator or ""
        source = build_part(estimator, load_parts(ESTIMATORS), "estimator")
        names = [] if self.project is None else self.project.split("+")
        project = [build_part(name, load_parts(PROJECTIONS), "projection") for name in names]
        ascent = Steady(GradientAscent(source, lr=self.lr, project=project))
        return ascent if self.best_of is None else Relay(BestOfN(self.best_of), ascent)


class ReNORecipe(Recipe, name="reno", needs=("gradient",), paper="https://arxiv.org/abs/2406.04312"):
    """ReNO: Nesterov's momentum on the first draw alone, its gradient clipped, its norm held by a penalty.

    Made for one-step models, where the first draw is all there is, and 50 steps. Each step is at most `lr * max_norm`
    long before momentum. Over many denoising steps it leaves most of the noise unused, and follows the gradient of the
    first draw, which is the weakest.
    """

    lr: float = option(5.0, gt=0, help="Learning rate; 5 as published, 10 for one of its models.")
    momentum: float = option(0.9, gt=0, lt=1, help="Nesterov's momentum.")
    max_norm: float = option(0.1, gt=0, help="Each row's gradient, penalty included, is scaled down to this norm.")
    default_guard = "none"  # as published: the penalty below
    weight: float = option(0.01, ge=0, help="Weight of the penalty on the norm, where there is no other guard.")

    def tries_candidates(self, differentiable: bool) -> bool:
        return False

    def build(self, reward: Reward) -> Method:
        from noiseward.noise.regularize import Shell

        method = super().build(reward)
        return method if self.guard else dataclasses.replace(method, regularizer=Shell(self.weight))

    def optimizer(self, reward: Reward) -> Optimizer:
        import torch

        from noiseward.noise.project import StartOnly
        from noiseward.optimizers.ascend import GradientAscent

        update = functools.partial(torch.optim.SGD, momentum=self.momentum, nesterov=True)
        return GradientAscent(update=update, lr=self.lr, max_norm=self.max_norm, project=[StartOnly()])


class PCNLRecipe(Recipe, name="pcnl", needs=("gradient",), paper="https://arxiv.org/abs/2506.01320"):
    """Langevin steps with a Metropolis test (pCNL): noise that is likely and scores high, from the best of some."""

    temperature: float | None = option(
        None, gt=0, help="What a unit of likelihood is worth, in units of the reward. Default: annealed."
    )
    size: float | None = option(None, gt=0, le=2, help="Step size, 2 for fresh noise. Default: adapted.")
    best_of: int = option(16, ge=0, help="Begin the chain at the best of so many fresh noises; 0: at the seed's own.")

    def tries_candidates(self, differentiable: bool) -> bool:
        return False

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.langevin import Langevin
        from noiseward.optimizers.relay import Relay
        from noiseward.optimizers.search import BestOfN

        chain = Langevin(self.temperature, size=self.size)
        return chain if self.best_of == 0 else Relay(BestOfN(self.best_of), chain)
