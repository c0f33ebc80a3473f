"""Noise to start from that is there already: of a run, of a saved solution, or as a tensor.

Noise of one row is that of every row of the new run; otherwise rows are taken one by one, and must be as many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from noiseward.errors import ArgumentError, describe_error
from noiseward.noise.layout import Layout

__all__ = ["read_start"]


def read_start(start: str | Tensor, layout: Layout, rows: int) -> Tensor:
    """The noise to start from, `(rows, *layout.noise_shape)`.

    Arguments:
        start: a text as in `options/start.py`, or a tensor with or without an axis of rows.
        layout: of the sampler that starts from it.
        rows: of the run.

    Raises:
        ArgumentError: there is none, it has another shape, or other rows.
    """
    row = None
    if isinstance(start, str):
        from noiseward.options.start import find_start

        file, row = find_start(start)
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
    return noise.to(layout.device, layout.dtype).expand(rows, *shape).clone()


def _read_noise(file: Path) -> Tensor:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as content:
            return content.get_tensor("noise")
    except Exception as error:  # a file may be damaged in any way
        reason: Any = describe_error(error, 100)
        raise ArgumentError(f"start: {file} cannot be read ({reason}); give another") from None
