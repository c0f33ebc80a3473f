"""Ctrl-C between a step's beginning and its end stops it; while a step is written down, it waits until that is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from noiseward.optimize import Step

__all__ = ["Interruptible"]


class Interruptible:
    """In the body of a `with`, a Ctrl-C is raised only inside the steps passed through `within`.

    One that comes at another time is raised where the next step would begin. Outside the main thread, where Python
    delivers no signals, nothing changes. They nest: the innermost one hears it.

    Attributes:
        asked: whether a Ctrl-C came.
    """

    def __init__(self) -> None:
        self.asked = self._stepping = False
        self._before: Any = None

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def within(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps; a Ctrl-C stops the one being made."""
        while True:
            if self.asked:
                raise KeyboardInterrupt
            try:
                self._stepping = True
                step = next(steps, None)
            finally:
                self._stepping = False
            if step is None:
                return
            yield step

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._stepping:
            raise KeyboardInterrupt
