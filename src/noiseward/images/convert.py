"""Images in and out: samples as images, and images that a user passes in.

:func:`convert_image` gives what `diffusers.utils.load_image` gives, an upright 8-bit image in RGB, and 8-bit gray for a
mask. In one thing it goes further: an image with more than 8 bits per pixel, as depth maps have, is scaled to 8 bits,
where Pillow's own conversion cuts off everything above 255 and leaves it white.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from noiseward.errors import ArgumentError, describe_error
from noiseward.lfs import is_pointer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["has_images", "convert_image", "open_rgb", "read_image", "read_sample", "to_images", "turn_upright"]

_MAX_16_BITS = 65535


def has_images(sample: Tensor) -> bool:
    """Whether samples are images."""
    return sample.ndim == 4 and sample.shape[1] in (1, 3)


def to_images(sample: Tensor) -> list[Image.Image]:
    """Convert samples `(B, 3, H, W)` or `(B, 1, H, W)` in [0, 1] to one RGB image per row.

    Raises:
        ArgumentError: samples of another shape.

    Example:
        >>> import torch
        >>> to_images(torch.ones(2, 3, 8, 8))[0].getpixel((0, 0))
        (255, 255, 255)
    """
    import numpy
    import torch  # what only shows files that are there needs neither

    if sample.ndim != 4 or sample.shape[1] not in (1, 3):
        raise ArgumentError(f"expected images (B, 3, H, W) in [0, 1], got samples of shape {tuple(sample.shape)}")
    levels = (sample.detach().float().cpu().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(numpy.ascontiguousarray(row.expand(3, -1, -1).permute(1, 2, 0).numpy())) for row in levels]


def convert_image(image: Any, *, mask: bool = False) -> Any:
    """Convert a Pillow image of any mode to an upright 8-bit image in RGB, or in gray for a mask.

    Example:
        >>> depth = Image.new("I;16", (1, 1), 32896)
        >>> convert_image(depth).getpixel((0, 0))
        (128, 128, 128)
    """
    upright = turn_upright(image)
    if mask and upright.mode == "LAB":  # Pillow converts it to gray only by way of RGB
        upright = upright.convert("RGB")
    return upright.convert("L" if mask else "RGB")


def turn_upright(image: Any) -> Any:
    """Turn a Pillow image as its EXIF data say, and convert it to 8 bits per channel; its channels stay."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "La":  # multiplied by its opacity, which Pillow undoes into LA alone
        upright = upright.convert("LA")
    return _scale(upright) if upright.mode == "F" or upright.mode.startswith("I") else upright


def read_image(path: str | Path, name: str, prepare: Callable[[Any], Any] = convert_image) -> Any:
    """Read an image file.

    Arguments:
        path: of the file.
        name: of the argument, for messages.
        prepare: applied to the image: `convert_image` or `turn_upright`.

    Raises:
        ArgumentError: there is no such file, or it cannot be read.
    """
    place = os.path.expanduser(path)
    if os.path.exists(place) and not os.path.isfile(place):  # a pipe would never answer
        raise ArgumentError(f"{name}: expected the path of an image, got '{path}', which is no file; check the path")
    try:
        with Image.open(place) as file:
            return prepare(file)
    except ArgumentError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        if is_pointer(Path(place)):
            raise ArgumentError(f"{name}: '{path}' is a Git LFS pointer, not the image; run 'git lfs pull'") from error
        raise ArgumentError(
            f"{name}: expected the path of an image, got '{path}' ({describe_error(error)}); check the file"
        ) from error


def open_rgb(path: Path) -> Image.Image | None:
    """The image of a file in RGB; None where there is none that can be read."""
    try:
        return read_image(path, "image")
    except ArgumentError:
        return None


def read_sample(path: Path) -> Tensor:
    """The image of a file as a sample `(3, H, W)`, in [0, 1]."""
    import numpy
    import torch

    levels = torch.from_numpy(numpy.array(read_image(path, "image")))
    return levels.permute(2, 0, 1) / 255


def _scale(image: Any) -> Any:
    """A gray image of 16-bit, 32-bit or floating-point values in 8 bits: its whole range, scaled."""
    import numpy

    values = numpy.asarray(image).astype(numpy.float64)
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        scale = _MAX_16_BITS
    else:
        scale = 1 if image.mode == "F" and top <= 1 else 255
    if not (0 <= values.min(initial=0.0) and top <= scale):
        raise ArgumentError(
            f"expected a gray image with values from 0 to {scale}, got mode {image.mode} with values from "
            f"{values.min():.4g} to {top:.4g}; convert it to 8 or 16 bits"
        )
    return Image.fromarray(numpy.rint(values * (255 / scale)).astype(numpy.uint8))
