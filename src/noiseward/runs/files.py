"""Files of a run directory: replaced atomically, read whole or refused by name, locked by one process at a time.

*Writing* replaces regular files only. A link is followed, so that what it points to is replaced and the link stays; a
directory, a device, a pipe or a socket is refused. *Reading* takes regular files of a limited size only: reading a pipe
instead of a file would block, and a device never ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DirectoryBusy",
    "check_folder",
    "check_target",
    "lock",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_tensors",
    "replace_file",
    "write_tensors",
]

LIMIT = 2**30  # bytes of a JSON file
DEPTH = 50  # of what is in it
RUN_FILES = (("spec.json", "steps.jsonl"), ("batch.json", "packs"))  # of a run; of a batch or a comparison
KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


class DirectoryBusy(RunError):
    """Another process holds a directory."""


def replace_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file next to its place, then rename it.

    Raises:
        RunError: the disk is full, the directory cannot be written, or something other than a file is there.
    """
    place = _place(target)
    beside = _beside(place)
    try:
        write(beside)
        os.replace(beside, place)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RunError(f"{target} cannot be written ({_reason(error)}); free space or give another --out") from None
        raise


def check_target(target: Path) -> None:
    """Raise `RunError` unless a file can be written here; what is there stays as it is."""
    place = _place(target)
    try:
        with open(_beside(place), "wb"):
            pass
        _beside(place).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{target} cannot be written ({_reason(error)}); give another path") from None


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, a batch or a comparison."""
    return any(all((folder / name).exists() for name in names) for names in RUN_FILES)


def check_folder(folder: Path) -> None:
    """Raise `RunError` unless images can be written into a folder, new or not, that is no part of a run's own.

    Nothing is made.
    """
    place = Path(os.path.realpath(folder))
    run = next(filter(_is_run, (place, *place.parents)), None)
    if run and place.relative_to(run).parts[:1] not in (("render",), ("replay",)):
        raise RunError(f"expected a folder outside of runs, got {folder}, which belongs to {run}; give another --out")
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        what = "is not writable" if os.path.isdir(there) else "is not a folder"
        raise RunError(f"{folder} cannot be written: {there} {what}; give another folder")
    if there == folder:
        check_target(folder / "00.png")


def _place(target: Path) -> Path:
    """Where a file is written: its own place, or the one that a link points to."""
    place = Path(os.path.realpath(target)) if os.path.islink(target) else target
    try:
        kind = stat.S_IFMT(os.stat(place).st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise RunError(f"{target} cannot be written ({_reason(error)}); give another path") from None
    if kind != stat.S_IFREG or not place.name:
        what = KINDS.get(kind, "something else")
        raise RunError(f"expected a file to write, got {target}, which is {what}; give the path of a file")
    return place


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name[:200]}.new")


def write_tensors(target: Path, content: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file; the tensors are contiguous, on the CPU, and share no memory."""
    from safetensors.torch import save_file

    replace_file(target, lambda path: save_file(content, path, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        RunError: it is missing, cut short or garbled.
    """
    from safetensors import SafetensorError, safe_open

    try:
        _check_regular(os.stat(path))
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # a header may also hold dtypes and shapes that torch refuses in ways of its own
        known = isinstance(error, OSError | SafetensorError)
        reason = _reason(error) if known else f"{type(error).__name__}: {_reason(error)}"
        raise RunError(f"{path} cannot be read ({reason}); restore it, or run again") from None


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """A file's content.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `limit`.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        found = os.fstat(file.fileno())
        _check_regular(found)
        if found.st_size > limit:
            raise OSError(f"{found.st_size} bytes, more than {limit}")
        return file.read()


def _check_regular(found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {KINDS.get(kind, 'no file')}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: it is missing or garbled.
    """
    try:
        content = parse_json(read_bytes(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(_missing(path)) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({_reason(error)}); restore it, or run again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read (no JSON object); restore it, or run again")
    return content


def parse_json(text: str) -> Any:
    """The data of a JSON text.

    Raises:
        ValueError: it is none, or is nested deeper than anything here, so that walking it could exhaust the stack.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    deep = text.count("[") + text.count("{") > DEPTH and isinstance(content, dict | list)
    level = [content] if deep else []
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError("nested too deeply")
    return content


def _missing(path: Path) -> str:
    if os.path.exists(path.parent / "batch.json"):
        return f"{path.parent} holds many runs; run its 'noiseward batch' or 'compare' command again to continue it"
    if path.name != "spec.json" and os.path.exists(path.parent / "spec.json"):
        return f"{path} is missing; restore it, or 'noiseward resume {path.parent}'"
    return f"{path.parent} is not a run directory, it has no {path.name}; 'noiseward list' shows runs"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a directory for this process; the lock ends with the process, however that ends.

    Raises:
        Busy: another process holds it.
        RunError: it cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    while True:
        try:
            file = open(folder / ".lock", "w")  # noqa: SIM115 (closed below; only opening it may fail for want of rights)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written ({_reason(error)}); make it writable, or copy the run"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryBusy(
                    f"{folder} is being written by another process; wait for it, or give another directory"
                ) from None
            except OSError as error:
                raise RunError(
                    f"{folder} cannot be locked ({_reason(error)}); give a directory on another file system"
                ) from None
            if _is_at(file.fileno(), folder / ".lock"):
                yield
                return
        # its last owner removed the lock between the two calls: take the one that is there now


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _reason(error: BaseException) -> str:
    """What the system says, also where safetensors wraps it."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
