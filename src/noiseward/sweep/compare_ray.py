"""Comparisons on a Ray cluster (extra `ray`): one actor per device, which holds model and rewards, a pack at a time.

Packs are the same on every engine and share nothing, so on a CPU the results are those of this process, bit for bit; a
pack whose actor is lost is done again. Under a budget of seconds, workers that share a machine share its time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch

from noiseward.sweep.cluster import Cluster
from noiseward.sweep.compare import Engine
from noiseward.sweep.comparison import CompareSpec, Pack
from noiseward.sweep.looks import Bench, made

__all__ = ["Worker", "on"]


@final
class Worker:
    """What an actor does.

    Arguments:
        threads: of the processor.
        home: folder to work in, where it exists on its node: paths in specs may be relative.
        spec: what is compared.
        pictures: where the best pictures are put.
    """

    def __init__(self, threads: int, home: str, spec: CompareSpec, pictures: Path) -> None:
        torch.set_num_threads(threads)
        if os.path.isdir(home):
            os.chdir(home)
        self._spec, self._pictures = spec, pictures
        self._bench: Bench | None = None

    def do(self, pack: Pack) -> dict[str, Any]:
        """A pack's results."""
        # not when the actor is made: what is wrong with the spec would look as if the actor had died
        self._bench = self._bench or Bench(self._spec)
        return made(self._bench, pack, self._pictures)


def on(cluster: Cluster) -> Engine:
    """The engine of a cluster."""

    def engine(spec: CompareSpec, packs: Sequence[Pack], folder: Path) -> Iterator[tuple[Pack, dict[str, Any]]]:
        return cluster.each(Worker, (spec, folder.absolute()), packs)

    return engine
