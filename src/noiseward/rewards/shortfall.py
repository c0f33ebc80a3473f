"""Requirements as text: what one says, and what a sample lacks of some; without torch (`requirements.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from noiseward.errors import ArgumentError

__all__ = ["FAILED", "describe_reward", "describe_shortfall", "find_gain", "is_met", "met_reward", "parse_requirement"]

FAILED = -1e9  # what a sample that fails a requirement scores at most: less than any reward


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


def met_reward(reward: float | None) -> float | None:
    """A reward as a number to show, to average or to sort by; None where requirements are not met, or it is not finite.

    Example:
        >>> met_reward(0.25), met_reward(1.5 * FAILED), met_reward(math.nan)
        (0.25, None, None)
    """
    return reward if reward is not None and math.isfinite(reward) and is_met(reward) else None


def find_gain(before: float | None, after: float | None) -> float | None:
    """How much a reward rose; None unless both are rewards of samples that meet all requirements.

    Example:
        >>> find_gain(0.25, 0.75), find_gain(FAILED, 0.75)
        (0.5, None)
    """
    before, after = met_reward(before), met_reward(after)
    return None if before is None or after is None else after - before


def describe_reward(reward: float | None, digits: int = 4) -> str:
    """A reward as text; None stands for that of a sample that does not meet all requirements.

    Example:
        >>> describe_reward(0.25), describe_reward(1.5 * FAILED), describe_reward(None)
        ('0.25', 'not met', 'not met')
    """
    return f"{reward:.{digits}g}" if reward is not None and is_met(reward) else "not met"


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
