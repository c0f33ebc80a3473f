"""Noise to start from that is there already: of a run, of a saved solution, or as a tensor.

    runs/duck       the best noise of each row
    runs/duck@12    the noise of step 12, where its frame was kept
    runs/duck:1     of row 1 alone, for every row

Noise of one row is that of every row of the new run; otherwise rows are taken one by one, and must be as many.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, describe_error
from noiseward.noise.layout import Layout

__all__ = ["read_start", "split_start"]


def split_start(text: str) -> tuple[Path, int | None]:
    """The file that a text names, and the row of it; None for all.

    Example:
        >>> file, row = split_start("runs/duck@12:1")
        >>> file.as_posix(), row
        ('runs/duck/frames/00012.safetensors', 1)
    """
    found = re.fullmatch(r"(.+?)(?:@([0-9]+))?(?::([0-9]+))?", text, re.DOTALL)
    name, step, row = found.groups() if found else (text, None, None)
    path = Path(os.path.expanduser(name))
    if step is not None:
        path = path / "frames" / f"{int(step):05d}.safetensors"
    elif path.suffix != ".safetensors":
        path = path / "best.safetensors"
    return path, None if row is None else int(row)


def _find(text: str) -> tuple[Path, int | None]:
    """As `split_start`, for a file that is there."""
    file, row = split_start(text)
    if file.is_file():
        return file, row
    folder = file.parent.parent if file.parent.name == "frames" else file.parent
    if file.name[:-12].isdigit() and (folder / "spec.json").is_file():
        kept = sorted(int(one.stem) for one in (folder / "frames").glob("[0-9]*.safetensors"))
        have = f"it has that of steps {', '.join(map(str, kept))}" if kept else "give RUN alone, for its best"
        raise ArgumentError(f"start: {folder} has not kept the noise of step {int(file.name[:-12])}; {have}")
    raise ArgumentError(f"start: expected a run directory or a .safetensors file, got '{text}'; check the path")


def read_start(start: str | Tensor, layout: Layout, rows: int) -> Tensor:
    """The noise to start from, `(rows, *layout.noise_shape)`.

    Arguments:
        start: a text as in the module, or a tensor with or without an axis of rows.
        layout: of the sampler that starts from it.
        rows: of the run.

    Raises:
        ArgumentError: there is none, it has another shape, or other rows.
    """
    row = None
    if isinstance(start, str):
        file, row = _find(start)
        noise = _read_noise(file)
    else:
        noise = start.detach()
    shape = tuple(layout.noise_shape)
    noise = noise[None] if tuple(noise.shape) == shape else noise
    if tuple(noise.shape[1:]) != shape:
        raise ArgumentError(
            f"start: expected noise of shape {('rows', *shape)}, got {tuple(noise.shape)}; it must come from the same "
            "model, scheduler, number of steps and size"
        )
    if row is not None:
        if row >= len(noise):
            raise ArgumentError(f"start: expected a row below {len(noise)}, got {row}")
        noise = noise[row : row + 1]
    if len(noise) not in (1, rows):
        raise ArgumentError(f"start: expected noise of 1 or {rows} rows, got {len(noise)}; choose one, as in RUN:0")
    return noise.to(layout.device, torch.float32).expand(rows, *shape).clone()


def _read_noise(file: Path) -> Tensor:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as content:
            return content.get_tensor("noise")
    except Exception as error:  # a file may be damaged in any way
        reason: Any = describe_error(error, 100)
        raise ArgumentError(f"start: {file} cannot be read ({reason}); give another") from None
