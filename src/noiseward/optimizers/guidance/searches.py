"""Guided runs by name, with the arguments of guide and search side by side: `dps:scale=0.5,samples=8`."""

from __future__ import annotations

from noiseward.optimizers.guidance.dps import DPS
from noiseward.optimizers.guidance.fk import FKSteering
from noiseward.optimizers.guidance.guided import Guided
from noiseward.optimizers.guidance.lgd import LGD

__all__ = ["dps_search", "fk_search", "lgd_search"]


def dps_search(scale: float = 1.0, *, normalize: bool = True, samples: int = 4, chunk: int = 16) -> Guided:
    """Guided runs of `DPS`."""
    return Guided(DPS(scale, normalize=normalize), samples=samples, chunk=chunk)


def lgd_search(
    scale: float = 1.0,
    *,
    votes: int = 10,
    normalize: bool = True,
    length: float = 1.0,
    samples: int = 4,
    chunk: int = 16,
) -> Guided:
    """Guided runs of `LGD`: `lgd:votes=100`."""
    return Guided(LGD(votes, scale=scale, normalize=normalize, length=length), samples=samples, chunk=chunk)


def fk_search(
    particles: int = 4,
    *,
    scale: float = 10.0,
    potential: str = "difference",
    every: float = 0.2,
    adaptive: bool = True,
    chunk: int = 16,
) -> Guided:
    """Guided runs of `FKSteering`, all particles of a row being one step's candidates: `fk:particles=8`."""
    guide = FKSteering(particles, scale=scale, potential=potential, every=every, adaptive=adaptive)
    return Guided(guide, samples=particles, chunk=chunk)
