"""Requirements as text: what one says, and what a sample lacks of some; without torch (`requirements.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from noiseward.errors import ArgumentError

__all__ = ["FAILED", "describe_reward", "describe_shortfall", "is_met", "parse_requirement"]

FAILED = -1000.0  # what a sample that fails a requirement scores at most


def parse_requirement(text: str) -> tuple[str, float, bool]:
    """The reward, the bound, and whether it is an upper one, of a text.

    Raises:
        ArgumentError: it is none.

    Example:
        >>> parse_requirement("clip:model=stickers >= 0.25"), parse_requirement("jpeg<=-2")
        (('clip:model=stickers', 0.25, False), ('jpeg', -2.0, True))
    """
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=)\s*([^<>=\s]+)\s*", text)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ArgumentError(f"require must be NAME>=NUMBER or NAME<=NUMBER, as in 'clip>=0.25', got '{text}'")
    return match[1], bound, match[2] == "<="


def is_met(reward: float) -> bool:
    """Whether a reward is that of a sample that meets all requirements."""
    return not reward <= FAILED


def describe_reward(reward: float) -> str:
    """A reward for a table.

    Example:
        >>> describe_reward(0.25), describe_reward(-1000.5)
        ('0.25', 'not met')
    """
    return f"{reward:.4g}" if is_met(reward) else "not met"


def describe_shortfall(terms: Mapping[str, float]) -> str | None:
    """What a sample lacks by its scores, in words; None if nothing.

    Example:
        >>> describe_shortfall({"brightness": 0.5, "clip>=0.25": 0.2})
        'fails clip>=0.25, got 0.2'
    """
    failed = []
    for name, found in terms.items():
        if ">=" in name or "<=" in name:
            _, bound, at_most = parse_requirement(name)
            if not (found <= bound if at_most else found >= bound):
                failed.append(f"{name}, got {found:.4g}")
    return f"fails {' and '.join(failed)}" if failed else None
