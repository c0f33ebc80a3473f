"""Methods that act while the sampler runs: each a guide (`moments.py`), one per paper; and guided runs as a search."""

from noiseward.guidance.dps import DPS
from noiseward.guidance.fk import FKSteering
from noiseward.guidance.guided import Guided
from noiseward.guidance.lgd import LGD

__all__ = ["DPS", "LGD", "FKSteering", "Guided"]
