r"""Guides: what may steer a sampler at its steps, what it sees there, and what it may answer (`steps.py`)."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from noiseward.noise.layout import Seeds

__all__ = ["Answer", "Guide", "Redraw", "Resampling", "SamplerStep", "StateReset", "StateShift"]


@dataclasses.dataclass(frozen=True)
class StateShift:
    """A correction of the next state, `(B, *X)`.

    Example:
        >>> import torch
        >>> StateShift(torch.full((2, 3), 0.1)).by.shape
        torch.Size([2, 3])
    """

    by: Tensor


@dataclasses.dataclass(frozen=True)
class Redraw:
    """This step's draw, replaced: `to` makes the new draw `(B, *X)` of the old one, row by row.

    Example:
        >>> import torch
        >>> Redraw(lambda draw: -draw).to(torch.ones(1, 2)).tolist()
        [[-1.0, -1.0]]
    """

    to: Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class StateReset:
    """The next state, `(B, *X)`, whatever the step leads to: for asking the denoiser, no choice of noise."""

    state: Tensor


@dataclasses.dataclass(frozen=True)
class Resampling:
    """For each row the row that continues in its place, `(B,)`, whole numbers.

    Example:
        >>> import torch
        >>> Resampling(torch.tensor([0, 0, 2])).rows.tolist()  # row 1 continues from row 0
        [0, 0, 2]
    """

    rows: Tensor


@dataclasses.dataclass(frozen=True)
class SamplerStep:
    """What a guide sees.

    Attributes:
        index: number of the step, from 0.
        of: how many there will be; for schedulers that call the denoiser twice per step, the number of calls.
        time: t as the sampler counts it.
        noisy: :math:`x_t`, `(B, *X)`.
        clean: :math:`\\hat x_0`, `(B, *X)`; has a graph where the guide asked for gradients.
        signal, sigma: of the noisy state, :math:`x_t = signal \\cdot x_0 + sigma \\cdot \\epsilon`.
        score: the reward of some :math:`x_0`, decoded as the sampler would: `(B, *X)` to `(B,)`.
        seeds: randomness of this step, one seed per row.
        memory: what the guide keeps until the next step, tensors whose first axis is the row. Rows that take another's
            place take its memory too.
        pull: `pull(scores)` is the gradient of the sum of some scores to :math:`x_t`, through the denoiser.
        slope: how much the next state changes with :math:`\\hat x_0` while :math:`x_t` stays.

    Example:
        >>> class Watch(Guide):  # prints what it sees of four samples at a time, and does nothing
        ...     def __call__(self, step):
        ...         print(step.index, step.of, tuple(step.clean.shape))
        >>> from noiseward import Budget, Guided, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> sampler = GaussianModel(steps=2, dim=3).sampler()
        >>> how = {"optimizer": Guided(Watch()), "budget": Budget(steps=1)}
        >>> _ = optimize(Objective(sampler, Linear(1.0)), sampler.init(1), **how)
        0 2 (4, 3)
        1 2 (4, 3)
    """

    index: int
    of: int
    time: float
    noisy: Tensor
    clean: Tensor
    signal: float
    sigma: float
    score: Callable[[Tensor], Tensor]
    seeds: Seeds
    memory: dict[str, Tensor]
    pull: Callable[[Tensor], Tensor]
    slope: Callable[[], Tensor]

    def conditioned(self, gradient: Tensor) -> Tensor:
        r"""The shift that follows from adding a gradient `(B, *X)` to the score of :math:`x_t`.

        By Tweedie's formula it changes the prediction by :math:`\sigma^2 / \text{signal}` times the gradient; the step
        does the rest. For a state that is nothing but noise the shift is zero.
        """
        if self.signal < 1e-6:
            return torch.zeros_like(gradient)
        return self.slope() * (self.sigma**2 / self.signal) * gradient

    def fresh(self, purpose: str) -> Tensor:
        """Standard normal numbers of the state's shape, each row's from its own seed."""
        rows = [
            torch.randn(self.noisy.shape[1:], generator=self.seeds.generator(row, purpose), dtype=self.noisy.dtype)
            for row in range(self.noisy.shape[0])
        ]
        return torch.stack(rows).to(self.noisy.device)


Answer = StateShift | Redraw | StateReset | Resampling | None
"""What a guide may answer at a step."""


class Guide(abc.ABC):
    """Steers a sampler at its steps. Row i of an answer depends on row i alone, or on the rows it is a particle with.

    Attributes:
        gradient: whether it uses `SamplerStep.pull`.
        particles: how many rows in succession belong together.

    Example:
        >>> class Calm(Guide):  # each step's draw, a tenth smaller
        ...     def __call__(self, step):
        ...         return Redraw(lambda draw: 0.9 * draw)
        >>> from noiseward import Guided
        >>> Guided(Calm()).guide.gradient
        False
    """

    gradient: bool = False
    particles: int = 1

    @abc.abstractmethod
    def __call__(self, step: SamplerStep) -> Answer:
        """What to do at a step."""
