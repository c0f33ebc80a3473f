"""Whether a run that is marked as running still is.

A process that is killed, or calls `os._exit`, cannot update its status, but its lock on the directory is released.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["describe_ending", "find_state"]


def find_state(state: str, path: Path) -> str:
    """The state of a run: that of its `status.json`, or `killed` if it is `running` there and no process holds the
    lock.

    Arguments:
        state: that of `status.json`.
        path: the run directory.
    """
    if state != "running":
        return state
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return state
    try:
        with open(path / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "killed"
    except OSError:  # another process holds it, or it cannot be read
        return state
    return "killed"


def describe_ending(row: str, state: str) -> str:
    """Why a row stopped, in a word: that of its status, but the state of its run where it was running.

    Arguments:
        row: its status by name.
        state: of the run, as `find_state` gives it.

    Example:
        >>> describe_ending("STEPS", "done"), describe_ending("RUNNING", "killed"), describe_ending("RUNNING", "failed")
        ('steps', 'killed', 'failed')
    """
    return state if row == "RUNNING" else row.lower()
