"""The seam of optimizers: given noise, evaluate it and propose the next."""

from __future__ import annotations

import abc
import dataclasses

from torch import Tensor

from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.plausible import Verdict
from noiseward.noise.layout import Seeds

__all__ = ["KNOWN", "Move", "Optimizer", "State"]

State = dict[str, Tensor]
"""What an optimizer needs for its next step, each of its parts with the row as first axis."""

KNOWN = "known"
"""The part of a state that says what the image test said of the next noise, `(B,)`, float64: it is not tested again."""


@dataclasses.dataclass(frozen=True)
class Move:
    """What one step of an optimizer returns, row by row.

    Attributes:
        evaluation: of the noise the step started from.
        noise: the next noise, `(B, *noise_shape)`.
        state: what the next step needs, and nothing else: tensors whose first axis is the row.
        info: numbers that are only logged, each `(B,)`: `grad_norm`, the norm of the direction before clipping.
        verdict: what the tests say of the noise the step started from, where the optimizer made them.
        settled: rows that nothing more is to be gained for, `(B,)`; None for none.
        restarts: rows that begin again elsewhere with the next step, `(B,)`; None for none. Where the budget is a
            number of steps, they end instead.
    """

    evaluation: Evaluation
    noise: Tensor
    state: State
    info: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    verdict: Verdict | None = None
    settled: Tensor | None = None
    restarts: Tensor | None = None


class Optimizer(abc.ABC):
    """Proposes the next noise. Its state is plain data: tensors whose first axis is the row.

    Attributes:
        random: whether another step from the same noise may lead elsewhere.

    Example:
        >>> class Shrink(Optimizer):  # a tenth closer to zero with every step
        ...     def step(self, objective, noise, state, seeds):
        ...         return Move(objective(noise), 0.9 * noise, {})
        >>> from noiseward import Budget, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> start = sampler.init(1, seed=0)
        >>> solution = optimize(Objective(sampler, Quadratic(0.0)), start, optimizer=Shrink(), budget=Budget(steps=2))
        >>> len(solution.history)
        3
    """

    random: bool = False

    @abc.abstractmethod
    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        """Evaluate `noise` and propose the next one.

        A pure function: nothing is kept between calls. The first call gets an empty state. Row i of each result
        depends on row i of each argument alone.
        """

    def describe(self, objective: Objective) -> str | None:
        """What it does for an objective, in one line, where that depends on the objective; None otherwise."""
        return None

    def check(self, objective: Objective) -> None:
        """Raise if this optimizer cannot optimize that objective, before anything is computed."""
        return
