"""The size of images that a pipeline starts from or follows: one rule for all tasks.

* With `height` and `width` all images are resized to them, stretched where their shape is another, with the filter of
  diffusers' own image processors (Lanczos).
* With one of the two, the other follows from the proportions of `image`, or of `control_image` where there is none.
* With neither, an image keeps its size, but one with more pixels than the model draws by itself is scaled down to as
  many.

Sides that are not given are rounded to multiples of what the model needs. A mask or a control image becomes as large as
the image. A pipeline that takes its images by itself gets them as they are, unless it has no `height` and `width`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Set
from typing import Any

from PIL import Image

from noiseward.errors import ArgumentError, NoisewardWarning

__all__ = ["fit_images", "find_size"]

MOST = 2**27  # pixels of an image, more than Pillow opens without a warning
_FIRST = ("image", "control_image", "mask_image")


def fit_images(pipe: Any, call: Mapping[str, Any], known: Set[str], *, converted: bool = False) -> dict[str, Any]:
    """The arguments of a call with images of the size that it draws.

    Arguments:
        pipe: the pipeline.
        call: its arguments.
        known: names of the arguments that it takes.
        converted: whether it is one that was made for these images.

    Raises:
        ArgumentError: an array or a tensor of another size, sides that are too long, or a mask that hides nothing.
    """
    result = dict(call)
    sides = [call.get(name) for name in ("height", "width")]
    takes_sides = {"height", "width"} <= known
    first = next((image for name in _FIRST for image in _list(call.get(name))), None)
    if first is None or (not converted and (takes_sides or sides == [None, None])):
        return result
    most = _find_area(pipe) if isinstance(first, Image.Image) else math.inf
    size = find_size(_measure(first), *sides, unit=_find_unit(pipe), most=most)
    if math.prod(size) > MOST:
        raise ArgumentError(f"height x width must be <= {MOST:,} pixels, got {size[1]} x {size[0]}; give smaller sides")
    _check_masks(call)
    for name in _FIRST:
        if name in result and (takes_sides or sides != [None, None] or isinstance(first, Image.Image)):
            result[name] = _resize(name, result[name], size)
    if takes_sides:
        return {**result, "width": size[0], "height": size[1]}
    return {name: value for name, value in result.items() if name not in ("height", "width")}


def find_size(
    size: tuple[int, int], height: int | None, width: int | None, *, unit: int, most: float = math.inf
) -> tuple[int, int]:
    """The width and height that an image is resized to.

    Arguments:
        size: width and height of the image.
        height, width: what is asked for.
        unit: sides are multiples of this, where they are not asked for.
        most: pixels, where nothing is asked for.

    Example:
        >>> find_size((4000, 3000), None, None, unit=8, most=512 * 512)
        (584, 440)
        >>> find_size((4000, 3000), 512, None, unit=8), find_size((100, 50), None, None, unit=8)
        ((680, 512), (96, 48))
    """
    own_width, own_height = size

    def fit(length: float) -> int:
        return max(unit, int(length // unit) * unit)

    if width is not None and height is not None:
        return width, height
    if height is not None:
        return fit(own_width * height / own_height), height
    if width is not None:
        return width, fit(own_height * width / own_width)
    scale = min(1.0, math.sqrt(most / (own_width * own_height)))
    return fit(own_width * scale + 1e-6), fit(own_height * scale + 1e-6)


def _find_unit(pipe: Any) -> int:
    """What sides are multiples of: the size of a latent, or of a patch of latents, and 8, which many ask for."""
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    return math.lcm(8, factor * (2 if "transformer" in pipe.components else 1))


def _find_area(pipe: Any) -> float:
    """How many pixels a model draws by itself."""
    size: Any = getattr(pipe, "default_sample_size", None)
    for name in ("unet", "transformer"):
        if size is None and name in pipe.components:
            size = getattr(pipe.components[name].config, "sample_size", None)
    sides = [side for side in (size if isinstance(size, list | tuple) else [size, size]) if isinstance(side, int)]
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    return float(math.prod(sides) * factor**2) if len(sides) == 2 else math.inf


def _list(value: Any) -> list[Any]:
    """The images of an argument."""
    if isinstance(value, list | tuple):
        return [image for part in value for image in _list(part)]
    return [value] if isinstance(value, Image.Image) or len(getattr(value, "shape", ())) >= 2 else []


def _measure(image: Any) -> tuple[int, int]:
    """Width and height of an image, of an array with its channels last, or of a tensor with its channels first."""
    if isinstance(image, Image.Image):
        return image.size
    is_array = type(image).__module__ == "numpy" and image.ndim >= 3
    height, width = image.shape[-3:-1] if is_array else image.shape[-2:]
    return int(width), int(height)


def _resize(name: str, value: Any, size: tuple[int, int]) -> Any:
    if isinstance(value, list | tuple):
        return [_resize(name, part, size) for part in value]
    if value is None or _measure(value) == size:
        return value
    if not isinstance(value, Image.Image):
        width, height = _measure(value)
        raise ArgumentError(
            f"{name} must be {size[0]} x {size[1]}, got {width} x {height}; arrays and tensors are not resized: give a "
            "Pillow image, or one of that size"
        )
    return value.resize(size, resample=Image.Resampling.LANCZOS)


def _check_masks(call: Mapping[str, Any]) -> None:
    """Warn of a mask that is stretched, and raise `ArgumentError` for one that hides nothing."""
    image = next((one for one in _list(call.get("image")) if isinstance(one, Image.Image)), None)
    for mask in _list(call.get("mask_image")):
        if not isinstance(mask, Image.Image):
            continue
        if (lightest := max(mask.convert("L").tobytes())) < 128:
            raise ArgumentError(
                f"mask_image has no white part, its lightest pixel is {lightest} of 255; make white what is to be drawn"
            )
        if image is not None and abs(math.log(mask.width * image.height / (mask.height * image.width))) > 0.02:
            warnings.warn(
                f"mask_image is {mask.width} x {mask.height}, image {image.width} x {image.height}: the mask is "
                "stretched over the image",
                NoisewardWarning,
                stacklevel=2,
            )
