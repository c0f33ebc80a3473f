"""What was made for one problem and may serve the next: models and rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Parts"]

T = TypeVar("T")


class Parts:
    """Models and rewards made for one problem and kept for the next, which often asks for the same ones.

    Of each kind only the last is kept, so that two models are never held at once.

    Example:
        >>> parts = Parts()
        >>> parts.kept("reward", "brightness", object) is parts.kept("reward", "brightness", object)
        True
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}

    def kept(self, kind: str, asked: Any, make: Callable[[], T]) -> T:
        """What was made before where the same is asked for, which is told by its `repr`; else what `make` makes."""
        known = repr(asked)
        if kind not in self._kept or self._kept[kind][0] != known:
            self._kept.pop(kind, None)  # let go of the last one before the next is made
            self._kept[kind] = known, make()
        return self._kept[kind][1]
