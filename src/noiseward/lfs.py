"""Git LFS pointers: the text files that a clone without `git lfs pull` has instead of its weights.

A pointer has some 130 bytes and begins with the version line of the specification
(https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
"""

from __future__ import annotations

from pathlib import Path

from noiseward.errors import ModelError

__all__ = ["check_pointers", "is_pointer"]

_BEGINS = b"version https://git-lfs"
_SIZE = 1024  # a pointer is smaller, by the specification


def is_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer; a pipe or a device, which may never answer, is none."""
    try:
        if not path.is_file() or path.stat().st_size >= _SIZE:
            return False
        with path.open("rb") as file:
            return file.read(len(_BEGINS)) == _BEGINS
    except OSError:
        return False


def check_pointers(path: Path) -> None:
    """Raise `ModelError` if a file, or one in a folder or its folders, is a pointer; for what could not be loaded."""
    files = sorted(file for pattern in ("*", "*/*") for file in path.glob(pattern)) if path.is_dir() else [path]
    for file in files:
        if is_pointer(file):
            raise ModelError(f"{file} is a Git LFS pointer, not the weights; run 'git lfs pull' in its repository")
