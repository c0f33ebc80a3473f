"""Methods by their papers' names: what moves the noise, and what keeps it plausible, with the papers' own settings.

A method is a composition, not a class: an optimizer and a regularizer. `align` takes the two by these names,

    method = reno()
    align(pipe, "a duck", "brightness", optimizer=method.optimizer, regularizer=method.regularizer)

and `noiseward compare` takes the name, with arguments where wanted: `reno:lr=10`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from noiseward.loop.loop import Optimizer
from noiseward.named import parse
from noiseward.noise.project import StartOnly
from noiseward.noise.regularize import Concentration, NoRegularizer, Regularizer, Shell
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.evolve import ChannelEvolution
from noiseward.optimizers.gradient import Backprop
from noiseward.optimizers.guidance import searches
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.zeroth_order import Hybrid2

__all__ = ["METHODS", "Method", "named", "reno"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of climbing.

    Arguments:
        optimizer: what moves the noise.
        regularizer: what keeps it plausible.
        coarse: how many sampler steps to begin with (`nested.py`); None for all.
    """

    optimizer: Optimizer
    regularizer: Regularizer = NoRegularizer()
    coarse: int | None = None


def reno(*, lr: float = 5.0, momentum: float = 0.9, max_norm: float = 0.1, weight: float = 0.01) -> Method:
    """ReNO: Nesterov's momentum on the first draw alone, its gradient clipped, its norm held by a penalty.

    Made for one-step models, where the first draw is all there is, and 50 moves. Each move is at most `lr * max_norm`
    long before momentum. When not to use it: over many steps, where most of the noise is left unused and the gradient
    of the first draw is the weakest.

    Arguments:
        lr: learning rate; 5 as published (10 for one of its models).
        momentum: Nesterov's.
        max_norm: the gradient of each row, penalty included, is scaled down to this norm.
        weight: of the penalty on the norm.

    References:
        ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization
        https://arxiv.org/abs/2406.04312

    Example:
        >>> method = reno()
        >>> method.optimizer.lr, method.regularizer.weight
        (5.0, 0.01)
    """
    update = functools.partial(torch.optim.SGD, momentum=momentum, nesterov=True)
    return Method(GradientAscent(update=update, lr=lr, max_norm=max_norm, project=[StartOnly()]), Shell(weight))


def dno(*, lr: float = 0.01) -> Method:
    """DNO: Adam on the noise of every step."""
    return Method(GradientAscent(lr=lr))


def dno_start(*, lr: float = 0.01) -> Method:
    """DNO on the first draw alone."""
    return Method(GradientAscent(lr=lr, project=[StartOnly()]))


def dno_hybrid(*, samples: int = 16, scale: float = 0.05, lr: float = 0.01) -> Method:
    """DNO without the reward's gradient: Hybrid-2."""
    return Method(GradientAscent(Hybrid2(samples, scale), lr=lr))


def dno_guarded(*, target: float = 0.1, lr: float = 0.01) -> Method:
    """DNO with the paper's penalty, its weight adapted to keep P(z) at a target."""
    return Method(GradientAscent(lr=lr), Concentration(target=target))


def dno_few(*, steps: int = 10, lr: float = 0.01, through: str = "exact") -> Method:
    """DNO on few sampler steps first, then on all; with `through="linear"` by the cheap gradient."""
    return Method(GradientAscent(Backprop(through=through), lr=lr), coarse=steps)


def dno_best(*, samples: int = 16, lr: float = 0.01) -> Method:
    """DNO from the best of some fresh noises."""
    return Method(Relay(BestOfN(samples), GradientAscent(lr=lr)))


def best_of_n(*, samples: int = 16) -> Method:
    """Fresh noise again and again."""
    return Method(BestOfN(samples))


def zero_order(*, samples: int = 16, cosine: float = 0.95) -> Method:
    """Neighbors on the sphere."""
    return Method(ZeroOrderSearch(samples, cosine))


def trust_region(*, samples: int = 16, regions: int = 4) -> Method:
    """Regions of trust that grow and shrink."""
    return Method(TrustRegion(samples, regions))


def evolution(*, samples: int = 16, scale: float = 0.2) -> Method:
    """Rotations of the noise's channels."""
    return Method(ChannelEvolution(samples, scale))


def dps(*, scale: float = 1.0, normalize: bool = True, samples: int = 4) -> Method:
    """Diffusion posterior sampling, the best of several runs."""
    return Method(searches.dps(scale, normalize=normalize, samples=samples))


def lgd(*, votes: int = 10, scale: float = 1.0, normalize: bool = True, samples: int = 4) -> Method:
    """Loss-guided diffusion, the best of several runs."""
    return Method(searches.lgd(scale, votes=votes, normalize=normalize, samples=samples))


def fk(*, particles: int = 4, scale: float = 10.0, potential: str = "difference") -> Method:
    """Feynman-Kac steering, the best particle of several runs."""
    return Method(searches.fk(particles, scale=scale, potential=potential))


METHODS: dict[str, Callable[..., Method]] = {
    "best-of-n": best_of_n,
    "zero-order": zero_order,
    "trust-region": trust_region,
    "evolution": evolution,
    "fk": fk,
    "dps": dps,
    "lgd": lgd,
    "reno": reno,
    "dno": dno,
    "dno-best": dno_best,
    "dno-start": dno_start,
    "dno-guarded": dno_guarded,
    "dno-few": dno_few,
    "dno-hybrid2": dno_hybrid,
}


def named(text: str) -> Method:
    """The method a text stands for.

    Raises:
        ArgumentError: no such method, argument or value.

    Example:
        >>> named("dno:lr=0.05").optimizer.lr
        0.05
    """
    return parse(text, METHODS, "method")
