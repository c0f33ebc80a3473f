"""Files of a run directory: replaced in one move, read whole or refused by name, locked by one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from noiseward.errors import RunError

__all__ = ["locked", "read_json", "read_tensors", "replace", "tensors"]


def replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then put it there in one move.

    Raises:
        RunError: the disk is full, or the directory cannot be written.
    """
    beside = target.with_name(f".{target.name}.new")
    try:
        write(beside)
        os.replace(beside, target)
    except Exception as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RunError(f"{target} cannot be written ({_reason(error)}): free space or give another --out") from None
        raise


def tensors(target: Path, content: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file."""
    from safetensors.torch import save_file

    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in content.items()}
    replace(target, lambda path: save_file(plain, path, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        RunError: it is missing, cut short or garbled.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read ({_reason(error)}): restore it, or run again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: it is missing or garbled.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        if (path.parent / "batch.json").exists():
            raise RunError(f"{path.parent} is a batch: give its 'noiseward batch' command again to go on") from None
        raise RunError(
            f"{path.parent} is no run directory, it has no {path.name}: 'noiseward list' shows runs"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({_reason(error)}): restore it, or run again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read (no JSON object): restore it, or run again")
    return content


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a directory for this process; the lock ends with the process, however that ends.

    Raises:
        RunError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    try:
        file = open(folder / ".lock", "w")  # noqa: SIM115 (closed below; only opening it may fail for want of rights)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): make it writable, or copy the run") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder} is being written by another process: wait for it, or give another directory"
            ) from None
        yield


def _reason(error: Exception) -> str:
    """What the system says, also where safetensors wraps it."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
