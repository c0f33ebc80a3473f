r"""Images that are given, to a pipeline or to a reward: one loader, whatever they come as.

What :func:`image` gives is what `diffusers.utils.load_image` gives, an upright 8-bit image in RGB, and 8-bit gray for a
mask. In one thing it goes further: an image with more than 8 bits per pixel, as depth maps have, is scaled to 8 bits,
where Pillow's own conversion cuts off everything above 255 and leaves it white.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError

__all__ = ["image", "read", "upright"]

_DEEP = 65535  # the largest value of 16 bits


def image(given: Any, *, mask: bool = False) -> Any:
    """A Pillow image of any mode as an upright 8-bit image: in RGB, or in gray for a mask.

    Example:
        >>> from PIL import Image
        >>> depth = Image.new("I;16", (1, 1), 32896)
        >>> image(depth).getpixel((0, 0))
        (128, 128, 128)
    """
    turned = upright(given)
    if mask and turned.mode == "LAB":  # Pillow knows no way from there to gray but through RGB
        turned = turned.convert("RGB")
    return turned.convert("L" if mask else "RGB")


def upright(given: Any) -> Any:
    """A Pillow image turned as its EXIF data say, and in 8 bits per channel; its channels are what they were."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(given)
    if turned.mode == "La":  # multiplied by its opacity, which Pillow undoes into LA alone
        turned = turned.convert("LA")
    return _shallow(turned) if turned.mode == "F" or turned.mode.startswith("I") else turned


def read(path: str | Path, name: str, prepare: Callable[[Any], Any] = image) -> Any:
    """The image in a file.

    Arguments:
        path: of the file.
        name: what the argument is called, for messages.
        prepare: what is done with it, `image` or `upright`.

    Raises:
        ArgumentError: there is none, or it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(Path(path).expanduser()) as file:
            return prepare(file)
    except ArgumentError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        why = " ".join(str(error).split())
        raise ArgumentError(f"{name}: expected the path of an image, got '{path}' ({why}); check the file") from error


def _shallow(deep: Any) -> Any:
    """A gray image of 16-bit, 32-bit or floating-point values in 8 bits: its whole range, scaled."""
    import numpy
    from PIL import Image

    values = numpy.asarray(deep).astype(numpy.float64)
    top = values.max(initial=0.0)
    if deep.mode.startswith("I;16") or (deep.mode == "I" and top > 255):
        scale = _DEEP
    else:
        scale = 1 if deep.mode == "F" and top <= 1 else 255
    if not (0 <= values.min(initial=0.0) and top <= scale):
        raise ArgumentError(
            f"expected a gray image with values from 0 to {scale}, got mode {deep.mode} with values from "
            f"{values.min():.4g} to {top:.4g}; convert it to 8 or 16 bits"
        )
    return Image.fromarray(numpy.rint(values * (255 / scale)).astype(numpy.uint8))
