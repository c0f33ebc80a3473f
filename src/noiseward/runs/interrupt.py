"""Ctrl-C between a step's beginning and its end stops it; while a step is written down, it waits until that is done.

SIGTERM, which schedulers send, and SIGHUP, which a closed terminal sends, do the same: the best so far is kept and the
run can be resumed. SIGQUIT and SIGKILL end the process at once; the run can be resumed then, too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, ClassVar

from noiseward.errors import RewardError, describe_error
from noiseward.loop.step import Step
from noiseward.terminal import leave_closed_terminal
from noiseward.user_code import SIGNALS

__all__ = ["Interruptible", "read_handlers", "set_handlers"]


def read_handlers() -> dict[int, Any]:
    """The handlers of signals that end a run, by number; none outside the main thread, which cannot set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in SIGNALS}


def set_handlers(handlers: Mapping[int, Any]) -> None:
    """Set handlers of signals; None is one that Python does not know, and stays."""
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


class Interruptible:
    """In the body of a `with`, a Ctrl-C, SIGTERM or SIGHUP is raised only inside the steps passed through `within`.

    One that comes at another time is raised where the next step would begin. Outside the main thread, where Python
    delivers no signals, nothing changes. They nest: the innermost one hears it. SIGTERM and SIGHUP are left to code
    that handles or ignores them, such as `nohup` or the worker of a cluster.

    Attributes:
        asked: whether such a signal came.
        heard: the signals that any of them heard, in order.
    """

    heard: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.asked = self._stepping = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruptible:
        self._begun = len(Interruptible.heard)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                theirs = signal.getsignal(number)
                ours = isinstance(getattr(theirs, "__self__", None), Interruptible)
                if number == signal.SIGINT or theirs == signal.SIG_DFL or ours:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = {number: before for number, before in self._before.items() if signal.getsignal(number) == self._note}
        set_handlers(ours)  # one that replaced ours stays

    def within(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps; a Ctrl-C stops the one being made.

        Raises:
            RewardError: code that a step ran raised `SystemExit`, `KeyboardInterrupt` or a similar exception by itself.
        """
        while True:
            if self.asked:
                raise KeyboardInterrupt
            try:
                self._stepping = True
                step = next(steps, None)
            except (SystemExit, GeneratorExit, KeyboardInterrupt) as error:
                if len(Interruptible.heard) > self._begun:  # this one, or one inside the steps
                    raise
                raise RewardError(
                    f"a step raised {type(error).__name__} ({describe_error(error)}), which would end the command: let "
                    "the reward, its gradient and the pipeline raise only what is an Exception"
                ) from error
            finally:
                self._stepping = False
            if step is None:
                return
            yield step

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process and number != signal.SIGINT:  # a child that a reward forked: it ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked = True
        Interruptible.heard.append(number)
        if number == getattr(signal, "SIGHUP", None):
            leave_closed_terminal()
        if self._stepping:
            raise KeyboardInterrupt
