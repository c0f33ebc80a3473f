"""Ways to propose noise that were tried next to the library's own, as optimizers: `methods.py` compares them.

They are here so that what did not earn a place can be measured again. Each states what it adds to what is there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from noiseward import Backprop, BestOfN, Estimator, GradientAscent, Objective, Optimizer, Seeds, Steady, Tilting
from noiseward.loop.objective import Evaluation
from noiseward.loop.optimizer import Move, State
from noiseward.noise.layout import Layout
from noiseward.optimizers.automatic import GUIDED, LUCKY
from noiseward.optimizers.candidates import choose, draw_movable, evaluate, keep_fixed
from noiseward.optimizers.guidance import FKSteering
from noiseward.optimizers.guidance.guided import guide_rows, run_seed
from noiseward.optimizers.search import turn
from noiseward.rewards.reward import score
from noiseward.samplers.cost import NFE, count_calls, current_meter
from noiseward.samplers.guide import Guide, SamplerStep
from noiseward.samplers.steps import run_guided

__all__ = [
    "Explore",
    "FourierAscent",
    "GradientRegion",
    "PrunedBestOfN",
    "Rounds",
    "Smoothed",
    "TurnedFK",
    "WhitenedAscent",
    "steady",
]


@final
class Explore(Optimizer):
    """What `auto` does, with another refinement, or with its parts cut otherwise."""

    def __init__(self, then: Optimizer, *, fresh: int = LUCKY, guided: int = GUIDED) -> None:
        self.fresh, self.guided, self.then = BestOfN(fresh), guided, then

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        if seeds.step == 0:
            return self.fresh.step(objective, noise, state, seeds)
        if seeds.step <= self.guided:
            return Tilting().step(objective, noise, state, seeds)
        return self.then.step(objective, noise, {} if Tilting.owns(state) else state, seeds)


def per_row(number: Tensor, like: Tensor) -> Tensor:
    """A number per row, in the shape of noise."""
    return number.to(like).view(-1, *(1,) * (like.ndim - 1))


def whiten(direction: Tensor, layout: Layout) -> Tensor:
    """A direction with all spatial frequencies of each draw made equally strong; zero stays zero."""
    parts = []
    for part in layout.split(direction):
        way = torch.fft.fftn(part, dim=axes(part), norm="ortho")
        white = torch.fft.ifftn(way / way.abs().clamp(min=1e-30), dim=axes(part), norm="ortho").real
        parts.append(torch.where(part.flatten(1).ne(0).any(1).view(-1, *(1,) * (part.ndim - 1)), white, part))
    return layout.join(parts)


@final
class WhitenedAscent(Optimizer):
    """Steps towards the whitened gradient of the finished sample, as `ntrk` makes them towards the predicted one's."""

    def __init__(self, share: float = 0.02, estimator: Estimator | None = None) -> None:
        self.share, self.estimator = share, estimator or Backprop()

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        evaluation, gradient = self.estimator(objective, noise, seeds)
        layout, norm = objective.sampler.layout, gradient.flatten(1).norm(dim=1)
        tilted = math.sqrt(1 - self.share) * noise + math.sqrt(self.share) * whiten(gradient, layout)
        ahead = torch.stack([keep_fixed(new, old, layout) for new, old in zip(tilted, noise, strict=True)])
        return Move(evaluation, torch.where(per_row(norm > 0, noise).bool(), ahead, noise), {}, {"grad_norm": norm})


@final
class FourierAscent(Optimizer):
    """Adam on the spectrum of each draw instead of its elements (the Hartley transform, which is its own inverse)."""

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout = objective.sampler.layout

        class Transformed(Estimator):
            def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
                evaluation, gradient = Backprop()(objective, transform(noise, layout), seeds)
                return evaluation, transform(gradient, layout)

        ascent = GradientAscent(Transformed(), lr=self.lr)
        move = ascent.step(objective, transform(noise, layout), state, seeds)
        return Move(move.evaluation, transform(move.noise, layout), move.state, move.info)


def transform(noise: Tensor, layout: Layout) -> Tensor:
    """The Hartley transform of each draw, over its last two axes."""
    spectra = (torch.fft.fftn(part, dim=axes(part), norm="ortho") for part in layout.split(noise))
    return layout.join([way.real - way.imag for way in spectra])


def axes(part: Tensor) -> tuple[int, ...]:
    """The axes of space, at most two."""
    return tuple(range(max(1, part.ndim - 2), part.ndim))


@final
class Smoothed(Estimator):
    """The mean of the gradients at two opposite neighbors on the sphere: less local, and twice as expensive."""

    random = True

    def __init__(self, sine: float = 0.1) -> None:
        self.sine = sine

    def __call__(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Evaluation, Tensor]:
        with torch.no_grad():
            evaluation = objective(noise)
        layout, total = objective.sampler.layout, torch.zeros_like(noise)
        fresh = [draw_movable(noise, layout, seeds, row, "neighbor") for row in range(len(noise))]
        for sign in (1, -1):
            neighbors = [turn(z, sign * xi, math.asin(self.sine), layout) for z, xi in zip(noise, fresh, strict=True)]
            total += Backprop()(objective, torch.stack(neighbors), seeds)[1]
        return evaluation, total / 2


@final
class GradientRegion(Optimizer):
    """A trust region whose candidates are turned towards a mix of the whitened gradient and fresh noise.

    The gradient is computed once per step; candidates cost a forward run each.
    """

    mixes, sizes = (0.9, 0.6, 0.3, 0.0), (0.5, 1.5)

    def __init__(self, sine: float = 0.3) -> None:
        self.sine = sine

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout, count = objective.sampler.layout, len(self.mixes) * len(self.sizes)
        evaluation, gradient = Backprop()(objective, noise, seeds)
        toward = whiten(gradient, layout)
        sine = state.get("sine", torch.full((len(noise),), self.sine, dtype=torch.float64))

        def make(row: int, i: int) -> Tensor:
            mix, size = self.mixes[i % len(self.mixes)], self.sizes[i // len(self.mixes)]
            fresh = draw_movable(noise, layout, seeds, row, f"candidate {i}")
            way = mix * toward[row] + math.sqrt(1 - mix**2) * fresh
            return turn(noise[row], way, math.asin(min(0.95, size * float(sine[row]))), layout)

        found = evaluate(objective, make, rows=len(noise), count=count, chunk=16)
        choice = choose(objective, noise, evaluation.value, found.value, make)
        values = choice.values
        better, which = values.amax(1) > evaluation.value, values.argmax(1)
        factor = torch.where(better, torch.where(which < len(self.mixes), 0.75, 1.5), 0.5)
        after = {"sine": (sine * factor).clamp(0.005, 0.9)}
        return Move(evaluation, choice.select(noise, make), after)


@final
class TurnedFK(Optimizer):
    """FK steering from fresh noise and from turns of the best, by turns; no gradient."""

    def __init__(self, particles: int = 4, *, scale: float = 10.0, sine: float = 0.6) -> None:
        self.guide = FKSteering(particles, scale=scale, potential="max", adaptive=False)
        self.sine = sine

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout, rows, k = objective.sampler.layout, len(noise), self.guide.particles
        with torch.no_grad():
            evaluation = objective(noise)
        sine = state.get("sine", torch.full((rows,), self.sine, dtype=torch.float64))
        around = seeds.step > 0 and seeds.step % 2 == 0

        def begin(row: int, i: int) -> Tensor:
            fresh = draw_movable(noise, layout, seeds, row, f"particle {i}")
            if not around:
                return keep_fixed(fresh, noise[row], layout)
            return turn(noise[row], fresh, math.asin(float(sine[row])) / (1 + i % 2), layout)

        places = [(row, i) for row in range(rows) for i in range(k)]
        own = Seeds(tuple(run_seed(seeds, row, i) for row, i in places))
        with count_calls(apart=True) as meter:
            start = torch.stack([begin(row, i) for row, i in places])
            found, new = guide_rows(objective.repeat(k), start, self.guide, own)
        current_meter().count(meter.nfe * k)
        noises = found.unflatten(0, (rows, k))

        def make(row: int, i: int) -> Tensor:
            return noises[row, i]

        choice = choose(objective, noise, evaluation.value, new.value.unflatten(0, (rows, k)), make)
        better = choice.values.amax(1) > evaluation.value
        resized = torch.where(better, sine * 1.2, sine / 1.2).clamp(0.05, 0.95) if around else sine
        return Move(evaluation, choice.select(noise, make), {"sine": resized})


@final
class PrunedBestOfN(Optimizer):
    """Best-of-N that gives up most of its noises halfway, by the reward of the predicted sample."""

    def __init__(self, samples: int = 16, *, at: float = 0.5, keep: int = 4) -> None:
        self.samples, self.at, self.keep = samples, at, keep

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        layout, rows, n = objective.sampler.layout, len(noise), self.samples
        with torch.no_grad():
            evaluation = objective(noise)
        fresh = [draw_movable(noise, layout, seeds, row, f"candidate {i}") for row in range(rows) for i in range(n)]
        repeated, at = objective.repeat(n), round(self.at * layout.steps)
        half = _Half(at)
        texts = repeated.prompt if isinstance(repeated.prompt, list) else None
        with count_calls(apart=True):
            run_guided(
                objective.sampler, torch.stack(fresh), repeated.prompt, half,
                score=lambda sample: score(objective.reward, sample, texts)[0], seeds=Seeds(tuple(range(rows * n))),
            )  # fmt: skip
        best = half.scores.view(rows, n).topk(self.keep, 1).indices

        def make(row: int, i: int) -> Tensor:
            return fresh[row * n + int(best[row, i])]

        with count_calls(apart=True):
            found = evaluate(objective, make, rows=rows, count=self.keep, chunk=16)
        current_meter().count(NFE(n * at + self.keep * (layout.steps - at)))  # as if it had stopped there
        choice = choose(objective, noise, evaluation.value, found.value, make)
        return Move(evaluation, choice.select(noise, make), {})


@final
class Rounds(Optimizer):
    """Guided runs and ascent by turns, four and sixteen steps at a time; nothing settles."""

    first, ascend, again = 1 + GUIDED, 16, 4

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        place = (seeds.step - self.first) % (self.ascend + self.again)
        if seeds.step < self.first or place >= self.ascend:
            return dataclasses.replace(Tilting().step(objective, noise, state, seeds), settled=None)
        memory = {f"tilting.{name}": part for name, part in state.items()} if place == 0 else {}
        memory |= {name: part for name, part in state.items() if name.startswith("tilting.")}
        own = {name: part for name, part in state.items() if not name.startswith("tilting.")} if place else {}
        move = Steady(GradientAscent()).step(objective, noise, own, seeds)
        if place < self.ascend - 1:
            return dataclasses.replace(move, state={**move.state, **memory}, settled=None)
        back = {name.removeprefix("tilting."): part for name, part in memory.items()}
        return dataclasses.replace(move, noise=move.state["center"], state=back, settled=None)


class _Half(Guide):
    """Notes the reward of the predicted sample at a step."""

    def __init__(self, at: int) -> None:
        self.at, self.scores = at, torch.empty(0)

    def __call__(self, step: SamplerStep) -> None:
        if step.index + 1 == self.at:
            self.scores = step.score(step.clean)


def steady(estimator: Estimator) -> Optimizer:
    """Steady ascent along an estimator's direction."""
    return Steady(GradientAscent(estimator))
