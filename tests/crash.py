"""Processes that die at a chosen instant, as by `kill -9`, while they write a run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove"}


def run_killed(
    work: Callable[[Callable[[str], None]], None], folder: Path, at: int, *, events: Collection[str] = EVENTS
) -> tuple[int, list[str]]:
    """Do some work in a child process that dies before its `at`-th operation on files below a folder.

    Arguments:
        work: what to do; it is given a function to report with, and what it reported outlives it.
        folder: where operations count.
        at: the number of the operation, from 1; 0 never.
        events: what counts as one.

    Returns:
        the number of operations seen, negative if it died; and what it reported.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        seen = 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in events and arguments and str(folder) in str(arguments[0]):
                seen += 1
                if seen == at:
                    os.write(writing, f"operation {seen}\n".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work(lambda text: os.write(writing, f"{text}\n".encode()) and None)
            os.write(writing, f"operation {seen}\n".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    operations = [int(line.split()[1]) for line in lines if line.startswith("operation")]
    died = os.WIFSIGNALED(status)
    assert operations, "the child ended with an exception"
    return -operations[-1] if died else operations[-1], [line for line in lines if not line.startswith("operation")]
