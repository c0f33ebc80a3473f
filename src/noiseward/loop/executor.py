"""Crews: who samples noises that do not depend on each other.

The candidates of an estimator or a search are sampled in pieces (`candidates.py`). A executor is handed the pieces one
after the other and hands their samples back in that order. The sampler is a function, so who does it makes no
difference: the pieces are the same, hence the bits. :class:`LocalExecutor` samples them here; on a cluster,
`noiseward.runs.ray` deals them out.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import final

from torch import Tensor

from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.sampler import Prompt, Sampler

__all__ = ["LocalExecutor", "Executor", "run_piece"]


class Executor(abc.ABC):
    """Samples pieces."""

    @abc.abstractmethod
    def run(self, sampler: Sampler, pieces: Iterable[tuple[Tensor, Prompt]]) -> Iterator[tuple[Tensor, NFE]]:
        """The samples of each piece, on the device of its noise, and the calls one row took part in; in order.

        Arguments:
            sampler: this process's own, for the pieces that are done here.
            pieces: noise `(b, *noise_shape)` and its prompts; taken as they are needed, for memory's sake.
        """


@final
class LocalExecutor(Executor):
    """One piece after the other, here.

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
    """The samples of some noise, and what each of its rows took part in, which is counted nowhere else."""
    with count_calls(apart=True) as meter:
        return sampler(noise, prompt), meter.nfe
