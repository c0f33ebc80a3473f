"""A tracker that may fail: the run continues without it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from noiseward.errors import NoisewardError, NoisewardWarning
from noiseward.trackers.tracker import Tracker
from noiseward.user_code import ErrorBoundary

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Tolerant"]


@final
class Tolerant(Tracker):
    """Passes everything to another tracker, until that fails: then one warning says so.

    A server that cannot be reached must not end a run of hours.

    Arguments:
        tracker: the other one.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self._call(lambda tracker: tracker.log_numbers(numbers, step))

    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        self._call(lambda tracker: tracker.log_images(images, step))

    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        self._call(lambda tracker: tracker.log_table(rows, step))

    def close(self, *, failed: bool) -> None:
        self._call(lambda tracker: tracker.close(failed=failed))

    def _call(self, method: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            with ErrorBoundary(f"tracker {type(self._tracker).__name__}", kind=NoisewardError):
                method(self._tracker)
        except NoisewardError as error:
            self._tracker = None
            warnings.warn(f"{error}; the run continues without it", NoisewardWarning, stacklevel=3)
