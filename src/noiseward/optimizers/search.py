r"""Search: optimization with no gradient at all, by trying noises and keeping the best.

Every step tries q candidates per row and takes the best of them if it beats the noise it has, so the value never falls
from one step to the next. Methods differ in where candidates come from:

* :class:`BestOfN`: anywhere, :math:`z' \sim N(0, I)`;
* :class:`ZeroOrderSearch`: around the noise, at a fixed angle;
* :class:`TrustRegion`: around the k best noises so far, at angles that grow with success and shrink with failure, some
  elements at a time;
* :class:`~noiseward.optimizers.evolve.ChannelEvolution`: among the rotations of the noise's channels (`evolve.py`).

All keep candidates Gaussian by construction. A *turn* by the angle :math:`\alpha`,

.. math:: z' = \|z\| \, \frac{u}{\|u\|}, \qquad u = \cos\alpha \, z + \sin\alpha \, \xi, \qquad \xi \sim N(0, I),

draw by draw, mixes two Gaussians into a third and puts it back on the sphere the draw came from: however many turns are
chosen one after the other, no draw's norm changes. That holds for the candidates. Choosing is another matter: a reward
that likes one direction, a color say, pulls the noise along it choice by choice, on the sphere but far out. The
strict test (`noise/typicality.py`) sees that, the norm cannot; `BestOfN` alone is safe from it. But the most extreme of
many fresh samples are the model's outliers, which the image test sees. So where results must pass the tests, what would
be chosen is tested, and then the next best; where candidates are fresh, the seed's own noise, too.

What a step costs, in denoiser calls per row: q + 1 runs of the sampler, all forward. The one more is the evaluation of
the noise itself, repeated in the batch it is reported in.

Draws that may not change are left alone. A candidate whose value is not finite loses against any other.
"""

from __future__ import annotations

import abc
import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.noise.layout import Layout, Seeds
from noiseward.optimizers.candidates import (
    check_counts,
    choose,
    comparable,
    compare,
    draw_movable,
    keep_fixed,
)

__all__ = ["BestOfN", "TrustRegion", "ZeroOrderSearch"]


class _Search(Optimizer):
    """A search without a state: the best of some candidates around the noise."""

    samples: int
    chunk: int
    fresh = False  # whether candidates are as good as the seed's own noise

    @abc.abstractmethod
    def _candidate(self, noise: Tensor, xi: Tensor, layout: Layout) -> Tensor:
        """A candidate for one row's noise, of fresh noise xi; each `noise_shape`."""

    @final
    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout = objective.sampler.layout

        def make(row: int, i: int) -> Tensor:
            return self._candidate(noise[row], draw_movable(noise, layout, seeds, row, f"candidate {i}"), layout)

        evaluation, found = compare(objective, noise, make, count=self.samples, chunk=self.chunk)
        choice = choose(objective, noise, evaluation.value, found.value, make, known=state.get(KNOWN), doubt=self.fresh)
        return choice.move(objective, evaluation, noise, choice.select(noise, make))


@final
class BestOfN(_Search):
    """Fresh noise at every step; the best of all is kept.

    The baseline every method should beat at the same cost. N steps try N times `samples` noises. It never leaves the
    model's own distribution, and it gains like the logarithm of what it tries.

    Arguments:
        samples: q, candidates per row and step.
        chunk: rows of candidates per call of the sampler.

    Example:
        >>> from noiseward import Budget, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=BestOfN(8), budget=Budget(steps=4))
        >>> bool((solution.gain > 0).all()), solution.nfe.forward  # (4 x 9 + 1) runs of 4 calls
        (True, 148)
    """

    fresh = True

    def __init__(self, samples: int = 16, *, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        self.samples, self.chunk = samples, chunk

    def _candidate(self, noise: Tensor, xi: Tensor, layout: Layout) -> Tensor:
        return keep_fixed(xi, noise, layout)


@final
class ZeroOrderSearch(_Search):
    """Neighbors on the sphere around a pivot; the best becomes the pivot.

    Arguments:
        samples: q, neighbors per row and step.
        cosine: of the angle between the pivot and its neighbors, 0 (as far as fresh noise) to 1.
        chunk: rows of candidates per call of the sampler.

    References:
        Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps
        https://arxiv.org/abs/2501.09732

    Example:
        >>> from noiseward import Budget, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4, dim=64).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=ZeroOrderSearch(8), budget=Budget(steps=4))
        >>> bool((solution.gain > 0).all()), torch.allclose(solution.noise.norm(), start.norm())
        (True, True)
    """

    def __init__(self, samples: int = 16, cosine: float = 0.95, *, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        if not 0 <= cosine < 1:
            raise ArgumentError(f"cosine must be in [0, 1), got {cosine}")
        self.samples, self.angle, self.chunk = samples, math.acos(cosine), chunk

    def _candidate(self, noise: Tensor, xi: Tensor, layout: Layout) -> Tensor:
        return turn(noise, xi, self.angle, layout)


@final
class TrustRegion(Optimizer):
    r"""Several trust regions, each around one of the best noises so far.

    A region has a center and a sine :math:`s`. Its candidates turn a random part of the center's elements, each with
    probability :math:`p \sim U(0.1, 0.9)`, by the angle :math:`\arcsin s`. A region with a candidate better than its
    center three times in a row grows, s becoming 1.5 s, at most 1; one without, three times in a row, shrinks, and
    starts again at its first size when it would fall below 0.05. After each step the k best of all centers and
    candidates are the new centers, wherever they come from; a candidate inherits the region it came from. The first
    step draws fresh noise to find the first centers.

    It adapts its own scale, which is what `ZeroOrderSearch` lacks, and it searches several places, which helps with
    rewards that have many peaks. Each costs candidates: with fewer than some hundreds, prefer the simpler ones.

    Arguments:
        samples: q, candidates per row and step, dealt out to the regions in turn.
        regions: k.
        sine: the first s of a region, up to 1.
        chunk: rows of candidates per call of the sampler.

    References:
        Trust-region search in noise space, https://arxiv.org/abs/2603.14504 (re-derived: turns instead of boxes)

    Example:
        >>> from noiseward import Budget, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4, dim=64).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=TrustRegion(8), budget=Budget(steps=4))
        >>> bool((solution.gain > 0).all())
        True
    """

    patience, factor, least = 3, 1.5, 0.05

    def __init__(self, samples: int = 16, regions: int = 4, sine: float = 0.4, *, chunk: int = 16) -> None:
        check_counts(samples=samples, regions=regions, chunk=chunk)
        if regions > samples:
            raise ArgumentError(f"regions must be <= samples, got {regions} and {samples}")
        if not self.least <= sine <= 1:
            raise ArgumentError(f"sine must be in [{self.least}, 1], got {sine}")
        self.samples, self.regions, self.sine, self.chunk = samples, regions, sine, chunk

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout, known = objective.sampler.layout, "center" in state

        def candidate(row: int, i: int) -> Tensor:
            xi = draw_movable(noise, layout, seeds, row, f"candidate {i}")
            if not known:
                return keep_fixed(xi, noise[row], layout)
            region = i % self.regions
            angle = math.asin(min(1.0, float(state["sine"][row, region])))
            return turn(state["center"][row, region], xi, angle, layout, _choose_part(xi, seeds, row, i))

        evaluation, found = compare(objective, noise, candidate, count=self.samples, chunk=self.chunk)
        if known:
            centers, rewards, sine, streak = (state[name] for name in ("center", "reward", "sine", "streak"))
            penalty = objective.repeat(self.regions).penalty(centers.flatten(0, 1)).view_as(rewards)
            held = comparable(rewards - penalty.to(rewards.dtype))  # with the multiplier of this step
        else:
            centers, rewards, held = noise[:, None], evaluation.reward[:, None], comparable(evaluation.value[:, None])
            sine, streak = torch.full_like(held, self.sine), torch.zeros_like(held)
        choice = choose(objective, noise, held.amax(1), found.value, candidate, known=state.get(KNOWN), doubt=not known)
        value = choice.values
        if not known:
            held = comparable(choice.value[:, None])
        parent = torch.arange(self.samples, device=value.device) % held.shape[1]
        if known:
            best_child = torch.stack([value[:, parent == k].amax(1) for k in range(self.regions)], 1)
            streak = torch.where(best_child > held, streak.clamp(min=0) + 1, streak.clamp(max=0) - 1)
            sine, streak = self._resize(sine, streak)
        values = torch.cat([held, value], 1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.regions]
        source = torch.cat([torch.arange(held.shape[1], device=value.device), parent])[order]
        chosen = [
            torch.stack([centers[row, k] if k < held.shape[1] else candidate(row, k - held.shape[1]) for k in of_row])
            for row, of_row in enumerate(order.tolist())
        ]
        after = {
            "center": torch.stack(chosen),
            "reward": torch.where(values.isfinite(), torch.cat([rewards, found.reward], 1), -torch.inf).gather(
                1, order
            ),
            "sine": sine.gather(1, source),
            "streak": streak.gather(1, source),
        }
        return choice.move(objective, evaluation, noise, after["center"][:, 0], after)

    def _resize(self, sine: Tensor, streak: Tensor) -> tuple[Tensor, Tensor]:
        grown = torch.where(streak >= self.patience, (sine * self.factor).clamp(max=1.0), sine)
        shrunk = torch.where(streak <= -self.patience, grown / self.factor, grown)
        sized = torch.where(shrunk < self.least, self.sine, shrunk)
        return sized, torch.where(streak.abs() >= self.patience, 0.0, streak)


def turn(center: Tensor, xi: Tensor, angle: float, layout: Layout, part: Tensor | None = None) -> Tensor:
    """Turn one row's noise towards `xi` by an angle, draw by draw (see the module).

    Arguments:
        center, xi: `noise_shape`.
        angle: in radians.
        part: which elements turn, a mask of that shape; default: all. The others are only scaled, to put a draw back
            on its sphere.
    """
    mixed = math.cos(angle) * center + math.sin(angle) * xi
    if part is not None:
        mixed = torch.where(part, mixed, center)
    before, after = layout.split(center[None]), layout.split(mixed[None])
    tiny = torch.finfo(center.dtype).tiny
    draws = [new * (old.norm() / new.norm().clamp(min=tiny)) for old, new in zip(before, after, strict=True)]
    return keep_fixed(layout.join(draws)[0], center, layout)


def _choose_part(like: Tensor, seeds: Seeds, row: int, i: int) -> Tensor:
    generator = seeds.generator(row, f"part {i}")
    share = 0.1 + 0.8 * torch.rand((), generator=generator)
    return (torch.rand(like.shape, generator=generator) < share).to(like.device)
