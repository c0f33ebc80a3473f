"""Noise to start from, as an option holds it.

runs/duck       the best noise of each row
runs/duck@12    the noise of step 12, where its frame was kept
runs/duck:1     of row 1 alone, for every row

What a folder's or a file's own name ends with is none of these.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from noiseward.errors import ArgumentError

__all__ = ["Start", "find_start", "split_start"]


def _as_start(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is not None and not (isinstance(value, str) and value) and not hasattr(value, "detach"):
        raise ValueError("the path of a run or of a .safetensors file, or a tensor")
    return value


Start = Annotated[Any, BeforeValidator(_as_start), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]


def split_start(text: str) -> tuple[Path, int | None]:
    """The file that a text names, and the row of it; None for all.

    Example:
        >>> file, row = split_start("runs/duck@12:1")
        >>> file.as_posix(), row
        ('runs/duck/frames/00012.safetensors', 1)
    """
    name, row = _split(text, ":")
    name, step = _split(name, "@")
    path = Path(os.path.expanduser(name))
    if step is not None:
        path = path / "frames" / f"{int(step):05d}.safetensors"
    elif path.suffix != ".safetensors":
        path = path / "best.safetensors"
    return path, None if row is None else int(row)


def _split(text: str, mark: str) -> tuple[str, str | None]:
    """A path and the number behind a mark at its end; None where there is none, or the path of that name is there."""
    found = re.fullmatch(rf"(.+){mark}([0-9]+)", text, re.DOTALL)
    return (found[1], found[2]) if found and not os.path.exists(os.path.expanduser(text)) else (text, None)


def find_start(text: str) -> tuple[Path, int | None]:
    """As `split_start`, for a file that is there.

    Raises:
        ArgumentError: it is not.
    """
    file, row = split_start(text)
    if file.is_file():
        return file, row
    folder = file.parent.parent if file.parent.name == "frames" else file.parent
    if file.name[:-12].isdigit() and (folder / "spec.json").is_file():
        kept = sorted(int(one.stem) for one in (folder / "frames").glob("[0-9]*.safetensors"))
        have = f"it has that of steps {', '.join(map(str, kept))}" if kept else "give RUN alone, for its best"
        raise ArgumentError(f"start: {folder} has not kept the noise of step {int(file.name[:-12])}; {have}")
    raise ArgumentError(f"start: expected a run directory or a .safetensors file, got '{text}'; check the path")
