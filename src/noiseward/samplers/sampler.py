r"""Samplers: noise in, sample out.

A **sampler** M turns noise z and a prompt c into a sample :math:`x = M(z, c)`. Three laws hold for each:

* *function law*: the same noise gives the same sample, bit for bit on CPU;
* *row law*: row i of a batch depends on row i of the noise and of the prompts alone;
* *pair law* (see `loop/loop.py`): a reward is kept with the noise it was computed from.

`FunctionSampler` (`function.py`) makes one of any code that draws its noise with torch.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Layout

__all__ = ["Prompt", "Sampler", "expand_prompts"]

Prompt = str | Sequence[str] | None


class Sampler(abc.ABC):
    """Noise and a prompt in, one sample per row out.

    A concrete sampler defines `layout` and `__call__`; shapes and fresh noise follow. One that has to run to know its
    layout defines `expect` as well. Its denoiser calls are reported to `current_meter()` (`cost.py`).

    Attributes:
        lighter: the argument with which it needs less memory, if there is one; named when memory runs out.
        stand_in: what its gradients go through instead of a part of it, which makes them biased; None for none.

    Example:
        >>> from noiseward.noise.layout import Draw
        >>> class Walk(Sampler):  # ten steps of a random walk
        ...     layout = Layout((Draw("steps", (10,), "start"),))
        ...     def __call__(self, noise, prompt=None):
        ...         return noise[:, 0].cumsum(1)
        >>> sampler = Walk()
        >>> sampler(sampler.init(2, seed=0)).shape
        torch.Size([2, 10])
    """

    lighter: str | None = None
    stand_in: str | None = None
    by_row: tuple[str, ...] = ()  # names of arguments that have an entry per prompt or per row, see `entries.py`

    @property
    def half(self) -> bool:
        """Whether its gradient passes through float16, which holds too narrow a range of numbers (`precision.py`)."""
        return any(draw.dtype == torch.float16 for draw in self.layout)

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """The draws of one run, in order."""

    @abc.abstractmethod
    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        """Sample some noise.

        Arguments:
            noise: `(B, *noise_shape)`, standard normal a priori.
            prompt: one for all rows, or one per row.

        Returns:
            `(B, *X)`; images are in [0, 1].
        """

    @property
    def alone(self) -> str | None:
        """Why rows of a batch are sampled one at a time, where that is a fault; None otherwise."""
        return None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments that its model is called with, by name; empty for a sampler that has none."""
        return {}

    @property
    def modules(self) -> Mapping[str, Module]:
        """The networks of its model by name, as far as they are known."""
        return {}

    @property
    def memory(self) -> str | None:
        """The memory mode that gradients are taken in (`memory.py`); None for a sampler without modes."""
        return None

    def with_steps(self, steps: int) -> Sampler | None:
        """A sampler of the same model that takes so many steps; None if it has no way to make one."""
        return None

    def settle(self, batch: int, prompt: Prompt = None) -> None:
        """Choose the memory mode for so many rows, where that was left open."""
        return

    def run_stock(self, prompt: Prompt = None, *, seed: int) -> Tensor | None:
        """The model's own sample of a seed, `(1, *X)`, made without tape or graph; None if it has no way of its own."""
        return None

    def show_stock(self, prompt: Prompt = None, *, seed: int) -> Tensor | None:
        """The same sample as the model itself shows it, in levels from 0 to 255; None if it shows no images."""
        return None

    def expect(self, prompt: Prompt) -> None:
        """Announce the prompt, before the first call: with it, the layout is found out when it is needed."""
        return

    @property
    @final
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one row of noise."""
        return self.layout.noise_shape

    @final
    @torch.inference_mode(False)
    def init(self, batch: int = 1, *, seed: int | Sequence[int] = 0) -> Tensor:
        """Fresh noise `(batch, *noise_shape)`.

        Arguments:
            batch: number of rows.
            seed: row i gets `seed + i`; or one seed per row. All are 64-bit integers, as for `align`.

        Row i of a diffusers pipeline's noise is the one of
        `pipe(..., generator=torch.Generator().manual_seed(seed + i))`.
        """
        from noiseward.options.run import Settings

        if batch < 1:
            raise ArgumentError(f"batch must be >= 1, got {batch}")
        if isinstance(seed, Iterable) and not isinstance(seed, str) and getattr(seed, "ndim", 1):
            seeds = [Settings(seed=one).seed for one in seed]
        else:
            first = Settings.read({"seed": seed, "batch": batch}).seed
            seeds = list(range(first, first + batch))
        if len(seeds) != batch:
            raise ArgumentError(f"seed: expected one integer or {batch} seeds, one per row, got {len(seeds)} seeds")
        return self.layout.draw_noise(seeds)


def expand_prompts(prompt: Prompt, batch: int) -> list[str] | None:
    """One prompt per row, or None when there is no prompt."""
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else [prompt] * batch
    if len(prompt) != batch:
        raise ArgumentError(f"prompt: expected one prompt or {batch}, one per row, got {len(prompt)}")
    return list(prompt)
