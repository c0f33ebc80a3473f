r"""The range of a pipeline's images: the tensors it returns against the images it shows.

With `output_type="pt"` most pipelines return images in [0, 1]. Some return their decoder's output, in [-1, 1] or
beyond, and map it for `output_type="pil"` alone. What counts is what the pipeline shows, so the two are compared once,
and samples are mapped by whichever of

.. math:: x \qquad \text{and} \qquad \mathrm{clamp}_{[0, 1]}\!\left( \tfrac{x + 1}{2} \right)

gives the levels of the shown image, up to rounding.
"""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ModelError

__all__ = ["Range", "find_range", "is_image", "to_levels"]

_SLACK = 3.0  # of 255 levels, between the shown image and the tensor, in half precision too


class Range(enum.Enum):
    """How a pipeline's tensors are mapped to images."""

    UNIT = "as they are"
    SIGNED = "by (x + 1) / 2"

    def __call__(self, sample: Tensor) -> Tensor:
        """The samples as images in [0, 1]."""
        return sample if self is Range.UNIT else (sample / 2 + 0.5).clamp(0, 1)


def is_image(sample: Tensor) -> bool:
    """Whether samples `(B, C, H, W)` or `(B, F, C, H, W)` are images or videos."""
    return sample.ndim in (4, 5) and sample.shape[-3] in (1, 3, 4) and min(sample.shape[-2:]) > 1


def to_levels(shown: Any) -> Tensor | None:
    """Convert Pillow images or arrays in [0, 1] to `(B, [F,] C, H, W)` from 0 to 255; None for anything else."""
    import numpy
    from PIL.Image import Image

    if isinstance(shown, list | tuple) and shown:
        parts = [to_levels(part) for part in shown]
        levels = [part for part in parts if part is not None]
        is_batch = len(levels) == len(parts) and len({part.shape for part in levels}) == 1
        return torch.stack(levels) if is_batch else None
    if isinstance(shown, Image):
        array = numpy.asarray(shown)
        array = array[..., None] if array.ndim == 2 else array
        return torch.from_numpy(array.copy()).movedim(-1, -3).double()
    if isinstance(shown, numpy.ndarray) and shown.ndim >= 3 and shown.dtype.kind == "f":
        return torch.from_numpy(shown.copy()).movedim(-1, -3).double() * 255
    return None


def find_range(pipeline: str, sample: Tensor, shown: Any, *, same_run: bool) -> Range | None:
    """Find the range of samples from how the pipeline shows them; `Range.UNIT` where the two cannot be compared.

    Arguments:
        pipeline: its name, for messages.
        sample: with `output_type="pt"`.
        shown: with `output_type="pil"`.
        same_run: whether both are known to be of one run. If not, and nothing fits, the result is None.

    Raises:
        ModelError: they are of one run and nothing fits.
    """
    levels = to_levels(shown)
    if levels is None or levels.shape != sample.shape:
        return Range.UNIT
    gaps = {each: _gap(each(sample.detach().cpu().double()), levels) for each in Range}
    best = min(gaps, key=lambda each: gaps[each])
    if gaps[best] <= _SLACK:
        return best
    if same_run:
        raise ModelError(
            f"{pipeline}: expected images with output_type='pt' in [0, 1] or [-1, 1], got ones that are up to "
            f"{gaps[best]:.0f} of 255 levels from those with output_type='pil'; wrap its parts with FunctionSampler(fn)"
        )
    return None


def _gap(images: Tensor, levels: Tensor) -> float:
    return (images.clamp(0, 1) * 255 - levels).abs().max().item()
