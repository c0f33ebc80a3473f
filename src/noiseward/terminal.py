"""The terminal: consoles that print text as it is, and other libraries kept quiet.

Prompts, paths, rewards' names and messages may hold anything: `[/red]`, `[cat:dog:0.5]`, `:duck:`. rich reads such
things as markup and emoji unless it is switched off, and raises where a tag is closed that was never opened. So every
console and every column of a bar comes from here, and no text needs to be escaped. A terminal that is closed while a
run continues makes writing fail before the signal of it arrives; what would be shown there is dropped, so that the run
ends as the signal asks.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn

__all__ = ["column", "console", "flush", "leave_closed_terminal", "silence"]


WIDE = 10_000  # characters of a line for programs, which need no line to be broken


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that prints text as it is; where that is no terminal, on lines of any length.

    Arguments:
        stderr: print to standard error.
        soft_wrap: leave it to the terminal to wrap long lines.

    Example:
        >>> console().print("[/red] :duck:")
        [/red] :duck:
    """
    from rich.console import Console

    stream = cast(IO[str], _Output("stderr" if stderr else "stdout"))
    found = Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = WIDE
    return found


class _Output:
    """Standard output or error as it is at the time; writing to a terminal that is gone does nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # a live display puts itself in the place of the stream

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        with _unless_gone():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered."""
        with _unless_gone():
            self._stream.flush()


def flush() -> None:
    """Write out what standard output buffers, where there is one."""
    with contextlib.suppress(AttributeError, ValueError):  # it may be closed
        _Output("stdout").flush()


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def leave_closed_terminal() -> None:
    """Point the streams of a terminal that is gone to the null device, so that writing to them does not fail."""
    for number in (0, 1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, number)
                os.close(nowhere)


def column(text: str) -> TextColumn:
    """A column of a bar, as `{task.description}`, that shows text as it is."""
    from rich.progress import TextColumn

    return TextColumn(text, markup=False)


@contextlib.contextmanager
def silence(*libraries: str, bars: bool = False) -> Iterator[None]:
    """Log nothing but errors in the body of a `with`.

    Arguments:
        libraries: `diffusers`, `transformers`.
        bars: keep their progress bars.
    """
    logs = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        if not bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shows_bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shows_bars and not bars:
                log.enable_progress_bar()
