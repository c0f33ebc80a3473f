"""Safety checkers and watermarks: parts of a pipeline that leave the graph, and are removed for a run.

A guardrail that its pipeline refuses to run without, as those of Cosmos do because their license asks for it, stays
where it is: it reads the prompt, and rewrites videos in 8 bits. No gradient passes that; searches need none.
"""

from __future__ import annotations

import warnings
from typing import Any

from noiseward.errors import NoisewardWarning

__all__ = ["explain_guardrail", "list_removable", "warn_of_removal"]

_LEAVES_THE_GRAPH = {"safety_checker": "safety checker", "watermark": "watermark"}
_TODO = {"safety_checker": "check the results", "watermark": "apply it to the results"}


def list_removable(pipe: Any) -> list[str]:
    """Names of the parts of a pipeline that leave the graph and that it runs without."""
    parts = {name: getattr(pipe, name, None) for name in _LEAVES_THE_GRAPH}
    return [name for name, part in parts.items() if part is not None and not _is_guardrail(part)]


def explain_guardrail(pipe: Any, error: Exception) -> str | None:
    """Why no gradient passes a pipeline's guardrail, if an error is of that; otherwise None."""
    if _is_guardrail(getattr(pipe, "safety_checker", None)) and "numpy() on Tensor that requires grad" in str(error):
        return "its guardrail rewrites samples in 8 bits, which no gradient passes, and it may not run without"
    return None


def warn_of_removal(pipe: Any) -> None:
    """Warn of each of these."""
    for name in list_removable(pipe):
        warnings.warn(
            f"{type(pipe).__name__}'s {_LEAVES_THE_GRAPH[name]} leaves the graph and is skipped while optimizing: "
            f"{_TODO[name]} yourself",
            NoisewardWarning,
            stacklevel=3,
        )


def _is_guardrail(part: Any) -> bool:
    return hasattr(part, "check_video_safety")
