"""Code of others, called so that whatever it does is an error of this library.

A reward is a user's Python. It may raise what is no `Exception`: a `SystemExit` would end the command with status 0
and nothing done, a `KeyboardInterrupt` would pass for the user's. It may raise an exception whose message cannot be
read, or close standard error, so that nothing can be said any more. :class:`Contained` makes an error in one line of
each, and lets through this library's own errors, memory that ran out, and a Ctrl-C that really came.

A real Ctrl-C is told from a raised one by :class:`Listening`, which sees the signals being delivered. Where one was, a
`KeyboardInterrupt` leaves the body whatever the code made of it: loaders and rewards that catch everything turn it into
errors of their own, or into nothing.

`os._exit` and signals that cannot be caught end the process at once; nothing here can help that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, final

from noiseward.errors import NoisewardError, RewardError, describe_error, is_out_of_memory

__all__ = ["SIGNALS", "Contained", "Listening", "Streams"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@final
class Listening:
    """Whether the user asked to stop in the body of a `with`; if so, `KeyboardInterrupt` leaves it.

    Handlers stay as they are and do what they do; only those that raise count. Outside the main thread, where Python
    delivers no signals, nothing is heard.

    Arguments:
        insist: raise `KeyboardInterrupt` at the end where one was raised and did not arrive there.

    Attributes:
        asked: whether a signal's handler raised.

    Example:
        >>> with Listening() as heard:
        ...     pass
        >>> heard.asked
        False
    """

    def __init__(self, *, insist: bool = True) -> None:
        self.asked, self._insist = False, insist
        self._before: dict[int, Any] = {}
        self._own = self._note  # bound once, so that it can be recognized

    def __enter__(self) -> Listening:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) is self._own:
                signal.signal(number, before)
        if self.asked and self._insist and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before[number](number, frame)
        except BaseException:
            self.asked = True
            raise


@final
class Contained:
    """In the body of a `with` foreign code runs; what goes wrong there is an error of this library.

    Arguments:
        what: whose code, as a message begins: `reward 'mine'`.
        when: what it was doing, as a message goes on; empty where that is plain.
        kind: the error to raise.

    Raises:
        KeyboardInterrupt: the user asked to stop.
        NoisewardError: of the kind that is wanted, or as it came.

    Example:
        >>> with Contained("reward 'mine'"):
        ...     sys.exit("done")
        Traceback (most recent call last):
            ...
        noiseward.errors.RewardError: reward 'mine' raised SystemExit: done
    """

    def __init__(self, what: str, when: str = "", *, kind: type[NoisewardError] = RewardError) -> None:
        self._what, self._when, self._kind = what, f" {when}" if when else "", kind
        self._heard = Listening()

    def __enter__(self) -> None:
        self._open = _open()
        self._heard.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heard.__exit__(kind, error, trace)
        closed = self._open - _open()
        if closed and Streams.kept is not None:
            Streams.kept.restore()
        if error is None:
            if closed:
                raise self._kind(f"{self._what} closed {' and '.join(sorted(closed))}: leave the streams open")
            return
        ours = isinstance(error, NoisewardError) and type(error).__module__.startswith("noiseward.")
        if ours or is_out_of_memory(error) or (isinstance(error, KeyboardInterrupt) and self._heard.asked):
            return
        name, message = type(error).__name__, describe_error(error)
        detail = f": {message}" if message != name else ""
        raise self._kind(f"{self._what} raised {name}{self._when}{detail}") from error


@final
class Streams:
    """Standard output and error of a process as they are now, to be put back where code of others closed them.

    Attributes:
        kept: those of this process, where it keeps any: the command line does.
    """

    kept: Streams | None = None

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        for number in (1, 2):
            with contextlib.suppress(OSError):
                self._files[number] = os.dup(number)

    def restore(self) -> None:
        """Open again what is closed."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            if name not in _open() and number in self._files:
                os.dup2(self._files[number], number)
                if getattr(sys, name) is None or getattr(sys, name).closed:
                    setattr(sys, name, open(number, "w", errors="backslashreplace", closefd=False))  # noqa: SIM115

    def say(self, text: str) -> None:
        """A line on standard error as it was, whatever became of it."""
        with contextlib.suppress(OSError):
            os.write(self._files.get(2, 2), f"{text}\n".encode(errors="backslashreplace"))


def _open() -> set[str]:
    """Which of the process's streams can be written."""
    found = set[str]()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and not getattr(stream, "closed", False):
            with contextlib.suppress(OSError):
                os.fstat(number)
                found.add(name)
    return found
