r"""The range of a pipeline's images: what it gives as tensors against what it shows.

With `output_type="pt"` most pipelines give images in [0, 1]. Some give what their decoder says, in [-1, 1] or beyond,
and map it for `output_type="pil"` alone. What an image *is* is what the pipeline shows, so the two are compared once,
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

__all__ = ["Range", "fitted", "is_image", "levels"]

_SLACK = 3.0  # of 255 levels, between what is shown and what was computed, in half precision too


class Range(enum.Enum):
    """What a pipeline's tensors have to be mapped by."""

    UNIT = "as they are"
    SIGNED = "by (x + 1) / 2"

    def __call__(self, sample: Tensor) -> Tensor:
        """The samples as images in [0, 1]."""
        return sample if self is Range.UNIT else (sample / 2 + 0.5).clamp(0, 1)


def is_image(sample: Tensor) -> bool:
    """Whether samples `(B, C, H, W)` or `(B, F, C, H, W)` are images or videos."""
    return sample.ndim in (4, 5) and sample.shape[-3] in (1, 3, 4) and min(sample.shape[-2:]) > 1


def levels(shown: Any) -> Tensor | None:
    """What a pipeline shows, Pillow images or arrays in [0, 1], as `(B, [F,] C, H, W)` from 0 to 255; else None."""
    import numpy
    from PIL.Image import Image

    if isinstance(shown, list | tuple) and shown:
        parts = [levels(part) for part in shown]
        found = [part for part in parts if part is not None]
        same = len(found) == len(parts) and len({part.shape for part in found}) == 1
        return torch.stack(found) if same else None
    if isinstance(shown, Image):
        array = numpy.asarray(shown)
        array = array[..., None] if array.ndim == 2 else array
        return torch.from_numpy(array.copy()).movedim(-1, -3).double()
    if isinstance(shown, numpy.ndarray) and shown.ndim >= 3 and shown.dtype.kind == "f":
        return torch.from_numpy(shown.copy()).movedim(-1, -3).double() * 255
    return None


def fitted(pipeline: str, sample: Tensor, shown: Any, *, sure: bool) -> Range | None:
    """The range of samples that the pipeline shows as `shown`; as they are where the two cannot be compared.

    Arguments:
        pipeline: what it is called, for messages.
        sample: with `output_type="pt"`.
        shown: with `output_type="pil"`.
        sure: whether both are known to be of one run. If not, and nothing fits, the answer is None.

    Raises:
        ModelError: they are of one run and nothing fits.
    """
    seen = levels(shown)
    if seen is None or seen.shape != sample.shape:
        return Range.UNIT
    gaps = {each: _gap(each(sample.detach().cpu().double()), seen) for each in Range}
    best = min(gaps, key=lambda each: gaps[each])
    if gaps[best] <= _SLACK:
        return best
    if sure:
        raise ModelError(
            f"{pipeline}: expected images with output_type='pt' in [0, 1] or [-1, 1], got ones that are up to "
            f"{gaps[best]:.0f} of 255 levels from those with output_type='pil'; wrap its parts with FunctionSampler(fn)"
        )
    return None


def _gap(images: Tensor, seen: Tensor) -> float:
    return (images.clamp(0, 1) * 255 - seen).abs().max().item()
