"""Methods that act while the sampler runs: one guide per paper (`samplers/steps.py`), and guided runs as a search."""

from noiseward.optimizers.guidance.dps import DPS
from noiseward.optimizers.guidance.fk import FKSteering
from noiseward.optimizers.guidance.guided import Guided
from noiseward.optimizers.guidance.lgd import LGD
from noiseward.optimizers.guidance.ntrk import NTRK

__all__ = ["DPS", "LGD", "NTRK", "FKSteering", "Guided"]
