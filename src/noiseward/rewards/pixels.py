"""Rewards that are arithmetic on pixels: images `(B, 3, H, W)` in [0, 1] in, `(B,)` out.

Those with a root in them have a gradient of zero, not of infinity, where the root is of zero.
"""

from __future__ import annotations

import io

import torch
from torch import Tensor

from noiseward.rewards.preprocess import check_images
from noiseward.rewards.reward import FunctionReward

__all__ = ["brightness", "colorfulness", "contrast", "darkness", "jpeg", "root", "saturation", "sharpness", "symmetry"]

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def brightness() -> FunctionReward:
    """The mean of all pixels, 0 for black, 1 for white.

    Example:
        >>> brightness()(torch.full((1, 3, 8, 8), 0.25), None).tolist()
        [0.25]
    """
    return FunctionReward(lambda images: check_images(images).mean((1, 2, 3)), name="brightness", statistic=True)


def darkness() -> FunctionReward:
    """One minus the brightness.

    Example:
        >>> darkness()(torch.full((1, 3, 8, 8), 0.25), None).tolist()
        [0.75]
    """
    return FunctionReward(lambda images: 1 - check_images(images).mean((1, 2, 3)), name="darkness", statistic=True)


def contrast() -> FunctionReward:
    """The standard deviation of the luminance over the image, at most 0.5.

    Example:
        >>> halves = torch.zeros(1, 3, 8, 8)
        >>> halves[..., 4:] = 1
        >>> round(contrast()(halves, None).item(), 6)
        0.5
    """
    return FunctionReward(
        lambda images: root(_luminance(images).flatten(1).var(1, correction=0)), name="contrast", statistic=True
    )


def saturation() -> FunctionReward:
    """The mean over pixels of the largest less the smallest channel: 0 for gray, 1 for pure colors (HSV's chroma).

    Example:
        >>> red = torch.zeros(1, 3, 8, 8)
        >>> red[:, 0] = 1
        >>> saturation()(red, None).item()
        1.0
    """

    def chroma(images: Tensor) -> Tensor:
        images = check_images(images)
        return (images.amax(1) - images.amin(1)).mean((1, 2))

    return FunctionReward(chroma, name="saturation", statistic=True)


def colorfulness() -> FunctionReward:
    r"""Hasler and Süsstrunk's :math:`\sqrt{\sigma_{rg}^2 + \sigma_{yb}^2} + 0.3 \sqrt{\mu_{rg}^2 + \mu_{yb}^2}`.

    With :math:`rg = R - G` and :math:`yb = (R + G) / 2 - B`; 255 times this is the published scale, on which 33 is
    moderately and 82 highly colorful.

    References:
        Measuring colorfulness in natural images
        https://doi.org/10.1117/12.477378

    Example:
        >>> colorfulness()(torch.full((1, 3, 8, 8), 0.5), None).item()
        0.0
    """

    def measure(images: Tensor) -> Tensor:
        red, green, blue = check_images(images).flatten(2).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], 1)
        spread, mean = opponents.var(2, correction=0).sum(1), opponents.mean(2).square().sum(1)
        return root(spread) + 0.3 * root(mean)

    return FunctionReward(measure, name="colorfulness", statistic=True)


def sharpness() -> FunctionReward:
    """The root mean square difference of the luminance between neighboring pixels, across and down.

    It rises with detail, and with noise: watch another reward, too.

    Example:
        >>> sharpness()(torch.full((1, 3, 8, 8), 0.5), None).item()
        0.0
    """

    def difference(images: Tensor) -> Tensor:
        light = _luminance(images)
        across, down = light.diff(dim=2).square().mean((1, 2)), light.diff(dim=1).square().mean((1, 2))
        return root((across + down) / 2)

    return FunctionReward(difference, name="sharpness", statistic=True)


def symmetry() -> FunctionReward:
    """The negative mean absolute difference between an image and its mirror image, 0 at best.

    Example:
        >>> symmetry()(torch.full((1, 3, 8, 8), 0.5), None).item() == 0
        True
    """

    def mirror_difference(images: Tensor) -> Tensor:
        images = check_images(images)
        return -(images - images.flip(3)).abs().mean((1, 2, 3))

    return FunctionReward(mirror_difference, name="symmetry", statistic=True)


def jpeg() -> FunctionReward:
    """Compressibility: the negative size in kB (1000 bytes) of each image as a quality-95 JPEG. A black box.

    Example:
        >>> flat, noisy = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64)
        >>> bool(jpeg()(flat, None) > jpeg()(noisy, None))
        True
    """

    def size(images: Tensor) -> Tensor:
        from noiseward.images import to_images

        sizes = []
        for image in to_images(check_images(images)):
            file = io.BytesIO()
            image.save(file, format="JPEG", quality=95)
            sizes.append(-file.tell() / 1000)
        return torch.tensor(sizes, device=images.device)

    return FunctionReward(size, differentiable=False, name="jpeg", statistic=True)


def _luminance(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device)
    return torch.einsum("bchw,c->bhw", check_images(images), weights)


def root(squares: Tensor) -> Tensor:
    """The root of numbers >= 0, with a gradient of zero where they are zero."""
    is_flat = squares <= torch.finfo(squares.dtype).eps ** 2
    return torch.where(is_flat, 0.0, torch.where(is_flat, 1.0, squares).sqrt())
