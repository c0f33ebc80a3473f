"""Coarse to fine: optimize on a sampler of few steps, carry the best noise over, and optimize on.

Steps of a sampler of few steps cost less. How its noise belongs to that of a sampler of many, both DDIM at eta = 1, is
`Nested` (`samplers/nested.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Optimizer
from noiseward.loop.step import Checkpoint, Step
from noiseward.noise.layout import Seeds
from noiseward.samplers.nested import Nested

__all__ = ["CoarseStage", "Through", "coarse_to_fine"]

Through = Callable[[Iterator[Step]], Iterator[Step]]
"""What steps are passed through on their way, to be shown or written: it yields them again."""


@dataclasses.dataclass(frozen=True)
class CoarseStage:
    """What is done on few sampler steps before many are taken.

    Arguments:
        objective: the same, on the coarse sampler.
        nested: how the two samplers' noises belong together.
        share: of the budget that is spent there.
    """

    objective: Objective
    nested: Nested
    share: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ArgumentError(f"share must be between 0 and 1, got {self.share}")

    def part(self, budget: Budget) -> Budget:
        """What the coarse sampler may spend of a budget.

        Example:
            >>> from noiseward.toys import GaussianModel, Linear
            >>> models = [GaussianModel(steps=steps) for steps in (2, 4)]
            >>> nested = Nested(*(model.alphas[::-1] for model in models))
            >>> CoarseStage(Objective(models[0].sampler(), Linear(1.0)), nested, 0.7).part(Budget(steps=10)).steps
            7
        """
        steps = None if budget.steps is None else round(self.share * budget.steps)
        seconds = None if budget.seconds is None else self.share * budget.seconds
        nfe = None if budget.nfe is None else round(self.share * budget.nfe)
        return Budget(steps, seconds, nfe, budget.reward)


@torch.inference_mode(False)
def coarse_to_fine(
    coarse: Objective,
    fine: Objective,
    start: Tensor,
    *,
    nested: Nested,
    optimizer: Optimizer,
    first: Budget,
    budget: Budget,
    seeds: Seeds | None = None,
    before: Optimizer | None = None,
    at: Checkpoint | None = None,
    through: Through = iter,
    ended: Mapping[int, Status] = MappingProxyType({}),
) -> Iterator[Step]:
    """Optimize on the coarse sampler, carry the best noise over, and optimize on the fine one.

    Arguments:
        coarse, fine: the same but for the sampler.
        start: fine noise.
        nested: how the two samplers' noises belong together.
        optimizer: what proposes the next noise; it starts without a state on the fine sampler.
        first: what the coarse sampler may spend.
        budget: what is spent in all, steps on both.
        seeds: as for `iterate`.
        before: the optimizer on the coarse sampler; None: `optimizer`, too.
        at: where the optimization on the coarse sampler continues, if it was begun before.
        through: what the coarse sampler's steps are passed through, which are steps of another objective, of other
            noise, and not among those yielded.
        ended: as for `iterate`, on the fine sampler.

    Yields:
        steps of the fine sampler: its evaluation of the start, step 0, then all from the carried noise on. Steps are
        numbered by those made on both, and calls and seconds include what was spent on the coarse one. To continue from
        any but the first, use `iterate` with the same budget.

    Raises:
        KeyboardInterrupt: as it came; on the coarse sampler only after what was found there was carried over.

    Example:
        >>> from noiseward import Budget, GradientAscent, Nested, Objective
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> few, many = GaussianModel(steps=2), GaussianModel(steps=4)
        >>> objectives = [Objective(model.sampler(), Quadratic(1.0)) for model in (few, many)]
        >>> found = list(coarse_to_fine(
        ...     *objectives, many.sampler().init(1, seed=0), nested=Nested(few.alphas[::-1], many.alphas[::-1]),
        ...     optimizer=GradientAscent(lr=0.1), first=Budget(steps=5), budget=Budget(steps=8),
        ... ))
        >>> bool(found[-1].best.reward > found[0].evaluation.reward)
        True
    """
    running = (Status.RUNNING,) * start.shape[0]
    begun = next(iterate(fine, start, optimizer=optimizer, budget=Budget(steps=0), seeds=seeds))
    yield dataclasses.replace(begun, status=running)
    last, stopped = None, None
    origin = nested.coarsen(start) if at is None else at
    steps = iterate(coarse, origin, optimizer=before or optimizer, budget=first, seeds=seeds)
    try:
        for step in through(steps):
            last = step
    except KeyboardInterrupt as stop:
        stopped = stop
    if last is None:
        raise stopped or AssertionError("iterate yields at least one step")
    carried = nested.refine(last.best.noise, rest=start)
    spent = begun.nfe + last.nfe, begun.seconds + last.seconds
    checkpoint = Checkpoint(max(last.index, 1), carried, {}, running, begun.best, *spent, (0.0, 0))
    if stopped is not None:
        found = next(iterate(fine, checkpoint, optimizer=optimizer, budget=Budget(steps=0), seeds=seeds))
        yield dataclasses.replace(found, status=running)
        raise stopped
    yield from iterate(fine, checkpoint, optimizer=optimizer, budget=budget, seeds=seeds, ended=ended)
