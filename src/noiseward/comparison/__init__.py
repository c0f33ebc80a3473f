"""Methods side by side at equal cost.

What was asked (spec), small fixed packs of work (packs), doing them (run), what came out (measure), and how it is shown
(figures, report).
"""

from noiseward.comparison.run import compare
from noiseward.comparison.spec import CompareSpec

__all__ = ["CompareSpec", "compare"]
