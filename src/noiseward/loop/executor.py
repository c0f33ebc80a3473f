"""Executors: where noises that do not depend on each other are sampled.

The candidates of an estimator or a search are sampled in pieces (`optimizers/candidates.py`). An executor takes the
pieces one after the other and returns their samples in that order. The sampler is a function and the pieces are the
same, so the bits do not depend on where they are computed: :class:`LocalExecutor` does so here, `sweep/ray.py` on a
cluster.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import final

from torch import Tensor

from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.sampler import Prompt, Sampler

__all__ = ["Executor", "LocalExecutor", "run_piece"]


class Executor(abc.ABC):
    """Samples pieces."""

    @abc.abstractmethod
    def run(self, sampler: Sampler, pieces: Iterable[tuple[Tensor, Prompt]]) -> Iterator[tuple[Tensor, NFE]]:
        """Yield the samples of each piece, on the device of its noise, and the calls one row took part in; in order.

        The calls are returned, and counted by no meter here.

        Arguments:
            sampler: this process's own, for the pieces that are done here.
            pieces: noise `(b, *noise_shape)` and its prompts; taken as they are needed, to save memory.
        """


@final
class LocalExecutor(Executor):
    """One piece after the other, in this process.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> pieces = LocalExecutor().run(sampler, [(sampler.init(3), None)])
        >>> [(sample.shape[0], nfe.forward) for sample, nfe in pieces]
        [(3, 4)]
    """

    def run(self, sampler: Sampler, pieces: Iterable[tuple[Tensor, Prompt]]) -> Iterator[tuple[Tensor, NFE]]:
        for noise, prompt in pieces:
            yield run_piece(sampler, noise, prompt)


def run_piece(sampler: Sampler, noise: Tensor, prompt: Prompt) -> tuple[Tensor, NFE]:
    """The samples of a piece, and the calls each of its rows took part in, which are counted nowhere else."""
    with count_calls(apart=True) as meter:
        return sampler(noise, prompt), meter.nfe
