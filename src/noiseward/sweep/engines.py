"""Which engine runs a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from noiseward.options.commands import EngineOptions
from noiseward.sweep.engine import Engine, Local

__all__ = ["open_engine"]


@contextlib.contextmanager
def open_engine(options: EngineOptions) -> Iterator[Engine]:
    """The engine that options ask for, in the body of a `with`."""
    if options.engine == "local":
        yield Local()
        return
    from noiseward.sweep.ray import RayEngine

    with RayEngine(options.address, workers=options.workers, threads=options.threads) as engine:
        yield engine
