"""A few samples along the way of a run, evenly spread."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["Frames"]


class Frames:
    """A few samples along the way, evenly spread whatever its length: every 1st, then 2nd, then 4th ... step.

    Arguments:
        limit: how many to keep at most.

    Example:
        >>> import torch
        >>> frames = Frames(limit=4)
        >>> for index in range(9):
        ...     frames.add(index, torch.tensor([float(index)]))
        >>> [index for index, _ in frames]
        [0, 4, 8]
    """

    def __init__(self, limit: int = 12) -> None:
        self.limit, self._stride = limit, 1
        self._kept: list[tuple[int, Tensor | None]] = []

    def add(self, index: int, sample: Tensor | None) -> None:
        """Offer the samples `(B, *X)` of a step; a step that is known already is replaced.

        A step whose samples are lost is offered as None: it takes part in the spreading, without a frame.
        """
        if index % self._stride:
            return
        self._kept = [(k, kept) for k, kept in self._kept if k < index]
        self._kept.append((index, None if sample is None else sample.detach().cpu()))
        while len(self._kept) > self.limit:
            self._stride *= 2
            self._kept = [(k, kept) for k, kept in self._kept if k % self._stride == 0]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return ((index, sample) for index, sample in self._kept if sample is not None)

    def __len__(self) -> int:
        return sum(sample is not None for _, sample in self._kept)
