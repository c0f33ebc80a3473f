"""A case for each of diffusers' pipeline classes that can be built small: the table of docs/pipelines.md.

Heavier than the families, which are measured in every mode; measured once, by `python -m experiments.catalog`.
"""

from __future__ import annotations

from tests.catalog import cascades, flow, latest, moving, newer, readers, stable, xl
from tests.catalog.cases import Case

__all__ = ["CASES", "Case"]

CASES = {
    each.name: each for part in (stable, xl, flow, readers, cascades, moving, newer, latest) for each in part.CASES
}
