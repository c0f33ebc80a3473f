"""Code of users, called so that whatever it does is an error of this library.

A reward is a user's Python. It may raise what is no `Exception`: a `SystemExit` would end the command with status 0
and nothing done, a `KeyboardInterrupt` would pass for the user's. It may raise an exception whose message cannot be
read, or close standard error, so that no message can be printed. :class:`ErrorBoundary` makes a one-line error of
each, and lets through this library's own errors, memory that ran out, and a real Ctrl-C.

:class:`InterruptListener` tells a real Ctrl-C from a raised one: it sees the signals being delivered. After one, a
`KeyboardInterrupt` leaves the body whatever the code did: loaders and rewards that catch everything turn it into
errors of their own, or into nothing.

`os._exit` and signals that cannot be caught end the process at once; nothing here can prevent that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, final

from noiseward.errors import ArgumentError, NoisewardError, RewardError, choices, describe_error, is_out_of_memory

__all__ = ["SIGNALS", "ErrorBoundary", "InterruptListener", "StandardStreams", "check_file", "load_name"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@final
class InterruptListener:
    """Whether the user interrupted the body of a `with`; if so, `KeyboardInterrupt` leaves it.

    Handlers stay as they are and do what they do; only those that raise count. Outside the main thread, where Python
    delivers no signals, nothing is noticed.

    Arguments:
        insist: raise `KeyboardInterrupt` at the end if one was raised and did not arrive there.

    Attributes:
        interrupted: whether a signal's handler raised.

    Example:
        >>> with InterruptListener() as listener:
        ...     pass
        >>> listener.interrupted
        False
    """

    def __init__(self, *, insist: bool = True) -> None:
        self.interrupted, self._insist = False, insist
        self._before: dict[int, Any] = {}
        self._own = self._handle  # bound once, so that it can be recognized

    def __enter__(self) -> InterruptListener:
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
        if self.interrupted and self._insist and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._before[number](number, frame)
        except BaseException:
            self.interrupted = True
            raise


@final
class ErrorBoundary:
    """The body of a `with` runs a user's code; what goes wrong there is an error of this library.

    Arguments:
        what: whose code, as a message begins: `reward 'mine'`.
        when: what it was doing, as the message continues; may be empty.
        kind: the error to raise.

    Raises:
        KeyboardInterrupt: the user interrupted.
        NoisewardError: of the given kind; one that the code raised passes as it is.

    Example:
        >>> with ErrorBoundary("reward 'mine'"):
        ...     sys.exit("done")
        Traceback (most recent call last):
            ...
        noiseward.errors.RewardError: reward 'mine' raised SystemExit: done
    """

    def __init__(self, what: str, when: str = "", *, kind: type[NoisewardError] = RewardError) -> None:
        self._what, self._when, self._kind = what, f" {when}" if when else "", kind
        self._listener = InterruptListener()

    def __enter__(self) -> None:
        self._open = _list_open()
        self._listener.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.__exit__(kind, error, trace)
        closed = self._open - _list_open()
        if closed and StandardStreams.saved is not None:
            StandardStreams.saved.restore()
        if error is None:
            if closed:
                raise self._kind(f"{self._what} closed {' and '.join(sorted(closed))}: leave the streams open")
            return
        is_ours = isinstance(error, NoisewardError) and type(error).__module__.startswith("noiseward.")
        is_real = isinstance(error, KeyboardInterrupt) and self._listener.interrupted
        if is_ours or is_real or is_out_of_memory(error):
            return
        name, message = type(error).__name__, describe_error(error)
        detail = f": {message}" if message != name else ""
        raise self._kind(f"{self._what} raised {name}{self._when}{detail}") from error


def check_file(path: Path, what: str) -> None:
    """Raise `ArgumentError` unless a file of a user is there; `what` it is, for messages: `a method of your own`."""
    if not os.path.isfile(path):
        raise ArgumentError(f"{path} is no file: give {what} as path/to/file.py:name")


def load_name(path: Path, name: str, what: str, *, kind: type[NoisewardError]) -> Any:
    """Run a file of a user, and take what has a name from it.

    Arguments:
        path: of the file.
        name: in it.
        what: it is, for messages: `a method of your own`.
        kind: the error to raise where the file fails.

    Raises:
        ArgumentError: there is no such file, or nothing of that name in it.
        NoisewardError: the file fails; of the given kind.
    """
    check_file(path, what)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    with ErrorBoundary(str(path), "when it was run", kind=kind):
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = choices(name, names) if names else "it defines nothing that can be called"
        raise ArgumentError(f"{path} has no '{name}'; {hint}")
    return getattr(module, name)


@final
class StandardStreams:
    """Standard output and error of a process as they are now, to be restored when a user's code closes them.

    Attributes:
        saved: those of this process, if it saved any: the command line does.
    """

    saved: StandardStreams | None = None

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        for number in (1, 2):
            with contextlib.suppress(OSError):
                self._files[number] = os.dup(number)

    def restore(self) -> None:
        """Open those again that are closed."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            if name not in _list_open() and number in self._files:
                os.dup2(self._files[number], number)
                if getattr(sys, name) is None or getattr(sys, name).closed:
                    setattr(sys, name, open(number, "w", errors="backslashreplace", closefd=False))  # noqa: SIM115

    def write_error(self, text: str) -> None:
        """Write a line to the saved standard error."""
        with contextlib.suppress(OSError):
            os.write(self._files.get(2, 2), f"{text}\n".encode(errors="backslashreplace"))


def _list_open() -> set[str]:
    """The process's streams that can be written."""
    names = set[str]()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and not getattr(stream, "closed", False):
            with contextlib.suppress(OSError):
                os.fstat(number)
                names.add(name)
    return names
