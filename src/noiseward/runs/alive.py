"""Whether a run that says it is running still is.

A process that is killed, or ends itself by `os._exit`, cannot say so; but the lock of its directory ends with it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_state"]


def find_state(state: str, path: Path) -> str:
    """The state of a run: what its `status.json` says, or `killed` where that is `running` and nobody holds the lock.

    Arguments:
        state: what `status.json` says.
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
