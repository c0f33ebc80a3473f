r"""Guided runs as a search: fresh noise is steered while it is sampled, and the best result of all is kept.

A guided run amounts to some noise (`samplers/steps.py`). So a method that acts during sampling is a search like any
other: it proposes noise, and the sampler alone, unguided, says what that is worth. One step proposes q noises per row,
which is best-of-n among guided runs; whatever a guide pays for its reward in plausibility shows in P(z).

What a step costs, per row: q guided runs, with a backward per denoiser call where the guide follows gradients, and one
run to evaluate the noise.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import check_counts, choose, draw_movable, keep_fixed
from noiseward.rewards.reward import score
from noiseward.samplers.cost import NFE, count_calls, current_meter
from noiseward.samplers.guide import Guide
from noiseward.samplers.sampler import expand_prompts
from noiseward.samplers.steps import run_guided

__all__ = ["Guided", "guide_rows", "run_seed"]


@final
class Guided(Optimizer):
    """Proposals of a guide; the best is kept.

    Arguments:
        guide: what steers: `DPS`, `LGD`, `FKSteering`, or one of your own.
        samples: q, guided runs per row and step; a multiple of the guide's particles.
        chunk: rows per call of the sampler.

    Raises:
        ArgumentError: counts that do not fit, or a sampler without noise at its steps.
        GradientError: the guide follows gradients and the reward has none.

    Example:
        >>> from noiseward.optimizers.guidance import FKSteering
        >>> Guided(FKSteering(particles=4), samples=6)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: samples must be a multiple of the guide's 4 particles, got 6
    """

    def __init__(self, guide: Guide, *, samples: int = 4, chunk: int = 16) -> None:
        check_counts(samples=samples, chunk=chunk)
        if samples % guide.particles:
            raise ArgumentError(f"samples must be a multiple of the guide's {guide.particles} particles, got {samples}")
        self.guide, self.samples, self.chunk = guide, samples, chunk

    def check(self, objective: Objective) -> None:
        name = type(self.guide).__name__
        if self.guide.gradient and not objective.reward.differentiable:
            raise GradientError(
                f"reward '{objective.reward.name}' is a black box, {name} follows its gradient: guide with FKSteering, "
                "or search (BestOfN, ZeroOrderSearch, TrustRegion, ChannelEvolution)"
            )
        if not any(draw.role == "step" and draw.movable for draw in objective.sampler.layout):
            raise ArgumentError(
                f"{name} needs noise at the sampler's steps, got a sampler that draws none; set eta=1, or take a "
                "stochastic scheduler"
            )

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        with torch.no_grad():
            evaluation = objective(noise)
        noises, values = self._propose(objective, noise, seeds)

        def make(row: int, i: int) -> Tensor:
            return noises[row, i]

        choice = choose(objective, noise, evaluation.value, values, make, known=state.get(KNOWN))
        return choice.move(objective, evaluation, noise, choice.select(noise, make))

    def _propose(self, objective: Objective, noise: Tensor, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Guided noises `(B, q, *noise_shape)` and their values `(B, q)`."""
        layout, q, k = objective.sampler.layout, self.samples, self.guide.particles
        repeated, total = objective.repeat(q), noise.shape[0] * q
        size = max(k, self.chunk // k * k)
        noises, values = [], []
        once = NFE()
        for begin in range(0, total, size):
            piece = range(begin, min(begin + size, total))
            places = [divmod(index, q) for index in piece]
            fresh = [(row, draw_movable(noise, layout, seeds, row, f"run {i}")) for row, i in places]
            start = torch.stack([keep_fixed(xi, noise[row], layout) for row, xi in fresh])
            own = Seeds(tuple(run_seed(seeds, row, i) for row, i in places))
            with count_calls(apart=True) as meter:
                noise_found, evaluation = guide_rows(repeated.rows(piece), start, self.guide, own)
            once = meter.nfe
            noises.append(noise_found)
            values.append(evaluation.value)
        current_meter().count(once * q)
        return torch.cat(noises).unflatten(0, (-1, q)), torch.cat(values).unflatten(0, (-1, q))


def guide_rows(objective: Objective, start: Tensor, guide: Guide, seeds: Seeds) -> tuple[Tensor, Evaluation]:
    """Run the sampler with a guide: the noise that the run amounts to, `(B, *noise_shape)`, and its evaluation.

    Arguments:
        objective: of those rows.
        start: `(B, *noise_shape)`.
        guide: what steers.
        seeds: randomness of the guide.
    """
    prompts = expand_prompts(objective.prompt, start.shape[0])

    def reward(sample: Tensor) -> Tensor:
        return score(objective.reward, sample, prompts)[0]

    end = run_guided(objective.sampler, start, objective.prompt, guide, score=reward, seeds=seeds)
    with torch.no_grad():
        return end.noise, objective.judge(end.noise, end.sample, state=end.state)


def run_seed(seeds: Seeds, row: int, run: int) -> int:
    """A seed of its own for each run of a row."""
    return int(torch.randint(2**62, (), generator=seeds.generator(row, f"guide {run}")))
