"""How the command ends: with the right status, and at once.

A reward may leave a thread or a child process behind. Python waits for threads before it ends, and a reader of the
command's output waits for all that hold the pipe. So the command ends in this order: its streams are flushed;
threads get a moment to come to their end; children of this process that are still in its session are terminated (one
that made a session of its own, as a server started on purpose does, is left alone); and the process ends, whatever
still runs.

`os._exit` cannot be caught, neither by `except` nor by `atexit`. Its name can be taken: what calls it in this process
ends it as before, but is named, and never with status 0, which would say that what was asked is done. The run it broke
off is left as a `kill -9` leaves it: `list` and `show` call it killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from noiseward.terminal import leave_closed_terminal

__all__ = ["advise", "honest", "leave", "take_advice"]

GRACE = 2.0  # seconds for threads, and for children, to end by themselves

_advice: list[str] = []


def advise(text: str) -> None:
    """Add to what is said where the command was interrupted: how to continue."""
    _advice.append(text)


def take_advice() -> list[str]:
    """What was added, once."""
    taken = list(_advice)
    _advice.clear()
    return taken


@contextlib.contextmanager
def honest() -> Iterator[None]:
    """In the body of a `with`, `os._exit` in this process is named, and status 0 is none that it can give."""
    end, own = os._exit, os.getpid()

    def named(status: int = 0) -> NoReturn:
        if os.getpid() == own:
            caller = sys._getframe(1)
            where = f"{caller.f_code.co_filename}, line {caller.f_lineno}"
            said = f"noiseward: os._exit({status}) was called in {where}: nothing after it was done\n"
            with contextlib.suppress(OSError):
                os.write(2, said.encode(errors="backslashreplace"))
            status = status or 1
        end(status)

    os._exit = named
    try:
        yield
    finally:
        os._exit = end


def leave(status: int) -> NoReturn:
    """End this process with a status, after a few seconds at most."""
    leave_closed_terminal()  # what is printed while Python ends would fail, too
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    children, threads = _children_end(), _threads_end()
    parts = [f"{count} {what}" for count, what in ((children, "child process(es)"), (threads, "thread(s)")) if count]
    if parts:
        with contextlib.suppress(OSError):
            os.write(2, f"noiseward: ended {' and '.join(parts)} left behind by a reward\n".encode())
    if threads:
        _within(GRACE, atexit._run_exitfuncs)
        os._exit(status)
    sys.exit(status)


def _threads_end() -> int:
    """How many threads that Python would wait for do not end within the grace."""
    own = threading.current_thread()
    executors = getattr(sys.modules.get("concurrent.futures.thread"), "_python_exit", None)
    until = time.monotonic() + GRACE
    if executors is not None and any(not one.daemon for one in threading.enumerate() if one is not own):
        _within(GRACE, executors)  # idle workers end when told that the interpreter does
    waited = [one for one in threading.enumerate() if one is not own and not one.daemon]
    for one in waited:
        one.join(max(0.0, until - time.monotonic()))
    return sum(one.is_alive() for one in waited)


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do something for so long at most."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


def _children_end() -> int:
    """Make the children of this process end that share its session; says how many there were."""
    begun = children = _children()
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, number)
        until = time.monotonic() + GRACE
        while children and time.monotonic() < until:
            time.sleep(0.01)
            children = [child for child in children if not _dead(child)]
    return len(begun)


def _children() -> list[int]:
    """Living children of this process in its session; those of multiprocessing where the system tells no others."""
    multiprocessing: Any = sys.modules.get("multiprocessing")
    found = {child.pid for child in multiprocessing.active_children()} if multiprocessing else set[int]()
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            found |= set(map(int, tasks.read_text().split()))
    return sorted(child for child in found - _servants() if _ours(child) and not _dead(child))


def _servants() -> set[int]:
    """Processes of multiprocessing's own, which end with this one."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return {pid for pid in (getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)) if pid}


def _ours(child: int) -> bool:
    try:
        return os.getsid(child) == os.getsid(0)
    except OSError:
        return False


def _dead(child: int) -> bool:
    """Whether a child has ended; who started it may still ask for its status."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except OSError:
        return True
