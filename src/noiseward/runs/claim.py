"""A new directory that belongs to one process, from before its work begins.

The directory is made and locked first; then the model is loaded, which takes long enough for a second process to begin.
Of two processes that ask for the same directory, one gets it and the other an error; where the name is left open, the
second takes the next one. If nothing was written, nothing stays.

A directory that holds only a released lock counts as empty: its owner died before it wrote what its run is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import final

from noiseward.errors import RunError
from noiseward.runs.files import DirectoryBusy, lock

__all__ = ["Claim", "DirectoryTaken", "is_vacant"]

LOCK = ".lock"
LEFT = {LOCK, "env.json", "looks.json", *(f".{name}.json.new" for name in ("env", "looks", "spec", "batch"))}


class DirectoryTaken(RunError):
    """A directory holds something, or another process writes it."""


def is_vacant(path: Path) -> bool:
    """Whether a directory is empty, or holds only what a process left that died before it wrote what its run is."""
    try:
        return set(os.listdir(path)) <= LEFT
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); give another directory with --out") from None


@final
class Claim:
    """In the body of a `with`, a new directory that no other process writes.

    Arguments:
        path: the directory: new, or empty.
        numbered: where it is taken, take `path-2`, `path-3`, ... in its place.

    Attributes:
        path: the one it became.

    Raises:
        RunError: it holds something, is being written by another process, or cannot be made.
    """

    def __init__(self, path: Path, *, numbered: bool = False) -> None:
        self.path, self._numbered = path, numbered
        self._made: list[Path] = []
        self._lock = contextlib.ExitStack()
        self._held = False

    @classmethod
    def fresh(cls, folder: Path, name: str) -> Claim:
        """The first free name in a folder: `a-duck-brightness`, then `a-duck-brightness-2`, ..."""
        return cls(folder / name, numbered=True)

    def _list(self) -> Iterator[Path]:
        """The directories to try, in this order."""
        first = self.path
        yield first
        if self._numbered:
            yield from (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))

    def find(self) -> Path:
        """The directory that it will become, unless another process is faster; nothing is made.

        Raises:
            RunError: it holds something, or cannot be made.
        """
        for path in self._list():
            try:
                _check(path)
                return path
            except DirectoryTaken:
                if not self._numbered:
                    raise
        raise RunError(f"no name is free in {self.path.parent}; give a new directory with --out")

    def __enter__(self) -> Path:
        for path in self._list():
            self.path = path
            try:
                self._take()
                return path
            except BaseException as error:
                self._leave()
                if not self._numbered or not isinstance(error, DirectoryTaken | DirectoryBusy):
                    raise
        raise RunError(f"no name is free in {self.path.parent}; give a new directory with --out")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _take(self) -> None:
        _check(self.path)
        left = os.path.exists(self.path / LOCK)
        try:
            for folder in reversed([self.path, *self.path.parents]):
                if not os.path.isdir(folder):
                    with contextlib.suppress(FileExistsError):  # another process was faster
                        folder.mkdir()
                        self._made.append(folder)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{self.path} cannot be made ({reason}); give another directory with --out") from None
        if left:
            self._made.append(self.path)  # by a process that died
        self._lock.enter_context(lock(self.path))
        self._held = True
        _check(self.path)

    def _leave(self) -> None:
        """Let go; where no run was begun, what was made goes, too."""
        if self._held and os.path.isdir(self.path) and is_vacant(self.path):
            for name in LEFT:
                with contextlib.suppress(OSError):
                    (self.path / name).unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()  # those that hold something stay
        self._made, self._held = [], False
        self._lock.close()


def _check(path: Path) -> None:
    """Raise unless a run can begin in a directory."""
    if os.path.isdir(path) and not is_vacant(path):
        what = "holds a run already" if os.path.exists(path / "spec.json") else "is not empty"
        raise DirectoryTaken(f"{path} {what}; give a new directory with --out, or 'noiseward resume' a run")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise RunError(f"{path} is a file; give a new directory with --out")
    parent = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"{path} cannot be written: {parent} is not writable; give another directory with --out")
