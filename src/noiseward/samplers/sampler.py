r"""Samplers: noise in, sample out.

A **sampler** M turns noise z and a prompt c into a sample :math:`x = M(z, c)`. Three laws hold for each:

* *function law*: the same noise gives the same sample, bit for bit on CPU;
* *row law*: row i of a batch depends on row i of the noise and of the prompts alone;
* *pair law* (see `optimize.py`): a reward is kept with the noise it was computed from.

`FunctionSampler` (`function.py`) makes one of any code that draws its noise with torch.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Layout
from noiseward.samplers.recompute import NFE

__all__ = ["Prompt", "Sampler", "prompts"]

Prompt = str | Sequence[str] | None


class Sampler(abc.ABC):
    """Noise and a prompt in, one sample per row out.

    A concrete sampler gives `layout`, `nfe` and `__call__`; shapes and fresh noise follow. One that has to run to know
    its layout gives `expect` as well.

    Attributes:
        lighter: the argument with which it takes less memory, if there is one; named when memory runs out.
    """

    lighter: str | None = None
    by_row: tuple[str, ...] = ()  # names of arguments that have an entry per prompt or per row, see `entries.py`

    @property
    def half(self) -> bool:
        """Whether its gradient passes through float16, which holds too narrow a range of numbers (`precision.py`)."""
        return any(draw.dtype == torch.float16 for draw in self.layout)

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """The draws of one run, in order."""

    @property
    @abc.abstractmethod
    def nfe(self) -> NFE:
        """Denoiser calls made through this sampler so far, per row."""

    @abc.abstractmethod
    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        """The samples of some noise.

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
        """Say which prompt will come, before the first call: with it, the layout is found out when it is asked for."""
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
            seed: row i gets `seed + i`; or one seed per row.

        Row i of a diffusers pipeline's noise is the one of
        `pipe(..., generator=torch.Generator().manual_seed(seed + i))`.
        """
        if batch < 1:
            raise ArgumentError(f"a batch of {batch} rows given, at least 1 wanted")
        seeds = [seed + row for row in range(batch)] if isinstance(seed, int) else list(seed)
        if len(seeds) != batch:
            raise ArgumentError(f"{len(seeds)} seeds given for {batch} rows: give one seed per row, or one integer")
        return self.layout.fresh(seeds)


def prompts(prompt: Prompt, batch: int) -> list[str] | None:
    """One prompt per row, or None when there is no prompt."""
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else [prompt] * batch
    if len(prompt) != batch:
        raise ArgumentError(f"{len(prompt)} prompts given for {batch} rows of noise: give one prompt, or one per row")
    return list(prompt)
