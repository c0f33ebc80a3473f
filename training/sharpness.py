"""How wide the edges of an image are, without a reference.

Along each row and each column of the luminance, an edge is a run of pixels over which it only rises or only falls. Its
width is the number of pixels over which a step of its height would spread at its steepest slope,

    w = |rise| / max |slope|,

which is 1 for a step from one pixel to the next, and grows with blur whatever the contrast. The edge width of an image
is the mean over its runs with a rise above a threshold, weighted by the rise; 0 where there are none.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)


def _lines(values: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Sums of rise * width and of rise over the runs in each row of (N, lines, length), for each image."""
    slopes = values[..., 1:] - values[..., :-1]
    count = len(slopes)
    sign = slopes.sign()
    new = torch.ones_like(slopes, dtype=torch.bool)
    new[..., 1:] = sign[..., 1:] != sign[..., :-1]  # each line begins a run
    run = new.flatten().cumsum(0) - 1
    number = int(run[-1]) + 1
    size = slopes.abs().flatten()
    rise = torch.zeros(number).index_add_(0, run, size)
    steepest = torch.zeros(number).scatter_reduce_(0, run, size, "amax")
    image = torch.arange(count).repeat_interleave(slopes[0].numel())[new.flatten()]
    kept = rise >= least
    rise, steepest, image = rise[kept], steepest[kept], image[kept]
    weighted = torch.zeros(count).index_add_(0, image, rise * rise / steepest)
    return weighted, torch.zeros(count).index_add_(0, image, rise)


def edge_width(pixels: Tensor, least: float = 0.5) -> Tensor:
    """The edge width of each image (N, 3, H, W) in [-1, 1], in pixels; `least` is the least rise of an edge."""
    gray = (pixels.float().clamp(-1, 1) * torch.tensor(LUMINANCE)[:, None, None]).sum(1)
    along, down = _lines(gray, least), _lines(gray.mT.contiguous(), least)
    return (along[0] + down[0]) / (along[1] + down[1]).clamp(min=1e-12)
