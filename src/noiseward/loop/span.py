"""Spans of time, as people say them."""

from __future__ import annotations

import math

__all__ = ["format_span"]


def format_span(seconds: float) -> str:
    """Seconds in the unit that people use.

    Example:
        >>> format_span(0.123), format_span(50), format_span(200), format_span(9000)
        ('0.12 s', '50 s', '3 min', '2.5 h')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
