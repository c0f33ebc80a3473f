r"""Motion: rewards that are arithmetic on the frames of a video.

Videos are `(B, F, 3, H, W)` in [0, 1]. With :math:`x_t` a frame and the mean over pixels, channels and times,

.. math::
    \text{motion} = \sqrt{\operatorname{mean} (x_{t+1} - x_t)^2}, \qquad
    \text{motion-smoothness} = -\operatorname{mean} (x_{t+1} - 2 x_t + x_{t-1})^2.

The first is zero for a still video and counts flicker and cuts as motion. The second is zero where each pixel changes
at a constant rate, also where everything stands still; together, `motion` and a weight on `motion-smoothness` ask for
steady movement. Neither follows objects: an edge that passes a pixel is a jump there.
"""

from __future__ import annotations

from torch import Tensor

from noiseward.errors import RewardError
from noiseward.rewards.pixels import root
from noiseward.rewards.preprocess import check_images
from noiseward.rewards.reward import FunctionReward

__all__ = ["check_video", "motion", "motion_smoothness"]


def motion() -> FunctionReward:
    """The root mean square difference between successive frames: 0 for a still, 1 for black and white by turns.

    Example:
        >>> import torch
        >>> blink = torch.zeros(1, 4, 3, 8, 8)
        >>> blink[:, ::2] = 1
        >>> motion()(blink, None).item()
        1.0
    """
    return FunctionReward(
        lambda video: root(check_video(video, 2).diff(dim=1).square().mean((1, 2, 3, 4))), name="motion", statistic=True
    )


def motion_smoothness() -> FunctionReward:
    """The negative mean square second difference over frames: 0 at best, at constant rates of change; -4 at worst.

    Example:
        >>> import torch
        >>> fade = torch.linspace(0, 1, 5)[None, :, None, None, None].expand(1, 5, 3, 8, 8)
        >>> abs(motion_smoothness()(fade, None).item()) < 1e-12
        True
    """
    return FunctionReward(
        lambda video: -check_video(video, 3).diff(n=2, dim=1).square().mean((1, 2, 3, 4)),
        name="motion-smoothness",
        statistic=True,
    )


def check_video(video: Tensor, frames: int) -> Tensor:
    """Check that samples are videos `(B, F, 3, H, W)` in [0, 1] of so many frames at least.

    Raises:
        RewardError: another shape, number of channels or range.

    Example:
        >>> import torch
        >>> check_video(torch.zeros(1, 3, 8, 8), 2)
        Traceback (most recent call last):
        ...
        noiseward.errors.RewardError: expected video (B, frames, 3, H, W) with frames >= 2, got samples of shape (1...
    """
    shape = tuple(video.shape)
    if len(shape) != 5 or shape[1] < frames or shape[2] != 3:
        raise RewardError(
            f"expected video (B, frames, 3, H, W) with frames >= {frames}, got samples of shape {shape}"
            f"{'; images have no motion' if len(shape) == 4 else ''}"
        )
    return check_images(video.flatten(0, 1)).unflatten(0, shape[:2])
