r"""Langevin steps with a Metropolis test: samples of noise, weighted by reward, instead of the best one alone.

Ascent ends at a maximum of the reward, however unlikely the noise is there. Of all distributions of noise with the same
mean value v, the one nearest to :math:`N(0, I)` is

.. math:: p(z) \propto e^{-\|z\|^2 / 2} \, e^{v(z) / \tau}.

This optimizer draws from it, by the preconditioned Crank-Nicolson Langevin scheme (pCNL). From a center z, with
:math:`g = \nabla v(z) / \tau`, it proposes

.. math:: z' = \frac{(2 - d) \, z + 2 d \, g + \sqrt{8 d} \, w}{2 + d}, \qquad w \sim N(0, I),

and accepts with the probability that makes p stationary. Without a reward, or with a linear one, that is 1 for every
step size d and in any dimension: the prior is built into the proposal, and every step mixes in fresh noise. Noise
and images that fail the tests (`loop/plausible.py`) are never accepted: p is then restricted to those that pass.

The temperature :math:`\tau` trades value for likelihood. A linear value with a slope of norm s is raised by
:math:`s^2 / \tau` on average, at a divergence from the prior of :math:`s^2 / 2 \tau^2`. Where none is given, it is
the norm of the first gradient over 10, and is divided by 1.15 after every accepted step: annealing, no sampling. A
step size that is not given grows with acceptance and shrinks without, towards a rate of 0.59; 0.57 is best in high
dimensions.

What a step costs, per row: an evaluation with its gradient, and where it is accepted the image test. When not to use
it: for the highest reward, which is not what it looks for.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer, State
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Layout, Seeds
from noiseward.noise.typicality import strict_probability
from noiseward.optimizers.candidates import check_positive, draw_movable, keep_fixed
from noiseward.optimizers.gradient import Backprop

__all__ = ["Langevin", "accept_log_ratio", "propose"]

FIRST_SIZE, GROWTH, SHRINKAGE = 0.003, 1.2, 1.3  # an acceptance of log 1.3 / log (1.2 * 1.3) = 0.59
DEVIATIONS, COOLING = 10.0, 1.15
SIZES, TRIES = (1e-6, 1.0), 20


@final
class Langevin(Optimizer):
    r"""Preconditioned Crank-Nicolson Langevin steps with a Metropolis test.

    Arguments:
        temperature: :math:`\tau`, in units of the value; None: annealed.
        size: d, up to 2; None: adapted, row by row. With both given, the chain is exact.

    References:
        MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster, https://arxiv.org/abs/1202.0709
        Psi-Sampler: Initial Particle Sampling for SMC-Based Inference-Time Reward Alignment in Score Models
        https://arxiv.org/abs/2506.01320

    Example:
        >>> from noiseward import Budget, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> chain = Langevin(temperature=0.5, size=0.5)
        >>> solution = optimize(objective, objective.sampler.init(2), optimizer=chain, budget=Budget(steps=10))
        >>> bool((solution.gain > 0).all())
        True
    """

    random = True

    def __init__(self, temperature: float | None = None, *, size: float | None = None) -> None:
        check_positive(**{name: x for name, x in (("temperature", temperature), ("size", size)) if x is not None})
        self.temperature, self.size = temperature, size

    def check(self, objective: Objective) -> None:
        Backprop().check(objective.reward)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        evaluation, gradient = Backprop()(objective, noise, seeds)
        value, norm = evaluation.value.detach().double().cpu(), gradient.flatten(1).norm(dim=1)
        small = ("value", "temperature", "size")
        state = {name: part.cpu() if name in small else part for name, part in state.items()}
        accepted = value.isfinite() if state else torch.ones_like(value, dtype=torch.bool)
        if state:
            ratio = accept_log_ratio(
                state["center"], state["gradient"], state["value"], noise, gradient, value,
                temperature=state["temperature"], size=state["size"],
            )  # fmt: skip
            accepted = accepted & (_draw_uniform(seeds, len(noise)).log() < ratio)
        verdict = objective.test(noise, evaluation.state, accepted) if state else None
        if verdict is not None and objective.plausible is not None:
            accepted = accepted & objective.plausible.passes(verdict.strict, verdict.image)
        now = {"center": noise, "gradient": gradient, "value": value}
        after = {name: select_rows(accepted, part, state[name]) if state else part for name, part in now.items()}
        after |= self._adapt(state, accepted, norm.double().cpu())
        ahead, after["size"] = self._propose(objective, after, seeds)
        return Move(evaluation, ahead, after, {"grad_norm": norm}, verdict=verdict)

    def _adapt(self, state: State, accepted: Tensor, norm: Tensor) -> State:
        """The next temperature and step size of each row."""
        if not state:
            full = torch.ones_like(norm)
            annealed = (norm / DEVIATIONS).clamp(min=torch.finfo(torch.float32).tiny)
            return {
                "temperature": annealed if self.temperature is None else self.temperature * full,
                "size": (FIRST_SIZE if self.size is None else self.size) * full,
            }
        temperature, size = state["temperature"], state["size"]
        if self.temperature is None:
            temperature = torch.where(accepted, temperature / COOLING, temperature)
        if self.size is None:
            size = torch.where(accepted, size * GROWTH, size / SHRINKAGE).clamp(*SIZES)
        return {"temperature": temperature, "size": size}

    def _propose(self, objective: Objective, state: State, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """The next noise and its step size: where that is adapted, one short enough to pass the strict test."""
        center, layout, size = state["center"], objective.sampler.layout, state["size"]
        fresh = torch.stack([draw_movable(center, layout, seeds, row, "fresh") for row in range(len(center))])

        def place(size: Tensor) -> Tensor:
            new = propose(center, state["gradient"], fresh, temperature=state["temperature"], size=size)
            return _keep_fixed(new, center, layout)

        ahead = place(size)
        if objective.plausible is None or self.size is not None:
            return ahead, size
        for _ in range(TRIES):
            fails = strict_probability(ahead, layout)[0].cpu() < objective.plausible.strict
            if not fails.any():
                break
            size = torch.where(fails, size / 2, size)
            ahead = place(size)
        return ahead, size


def propose(center: Tensor, gradient: Tensor, fresh: Tensor, *, temperature: Tensor, size: Tensor) -> Tensor:
    """The proposal from a center `(B, *noise_shape)`, the gradient there and fresh noise; numbers are `(B,)`."""
    d, pull = _spread(size, center), gradient / _spread(temperature, center)
    return ((2 - d) * center + 2 * d * pull + (8 * d).sqrt() * fresh) / (2 + d)


def accept_log_ratio(
    old: Tensor,
    old_gradient: Tensor,
    old_value: Tensor,
    new: Tensor,
    new_gradient: Tensor,
    new_value: Tensor,
    *,
    temperature: Tensor,
    size: Tensor,
) -> Tensor:
    """The logarithm of the Metropolis ratio of a proposal, `(B,)`, float64.

    Arguments:
        old, old_gradient, old_value: the center, `(B, *noise_shape)`, its gradient and value.
        new, new_gradient, new_value: the same for what was proposed from it.
        temperature, size: `(B,)`, what it was proposed with.
    """

    old, new, old_gradient, new_gradient = (part.cpu().double() for part in (old, new, old_gradient, new_gradient))

    def way(here: Tensor, gradient: Tensor, value: Tensor, there: Tensor) -> Tensor:
        pull = gradient / _spread(temperature, gradient)
        along = _dot(there - here, pull) / 2 + size / 4 * _dot(here + there, pull)
        return -value / temperature - along + size / 4 * _dot(pull, pull)

    return way(old, old_gradient, old_value, new) - way(new, new_gradient, new_value, old)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).flatten(1).sum(1)


def _draw_uniform(seeds: Seeds, rows: int) -> Tensor:
    generators = [seeds.generator(row, "accept") for row in range(rows)]
    return torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in generators])


def _spread(number: Tensor, like: Tensor) -> Tensor:
    """A number per row in the shape and on the device of noise."""
    return number.to(like).view(-1, *(1,) * (like.ndim - 1))


def _keep_fixed(new: Tensor, old: Tensor, layout: Layout) -> Tensor:
    return torch.stack([keep_fixed(a, b, layout) for a, b in zip(new, old, strict=True)])
