r"""How many of a thing an image shows, by a detector that takes the name of what to look for (`detectors.py`).

The detector gives each of its boxes a logit :math:`\ell` of being the thing. Of boxes that overlap, the most likely one
is kept. With the logit t of a threshold and a slope k, the number of things and the reward are

.. math:: n(x) = \sum_{i \text{ kept}} \sigma(k (\ell_i - t)), \qquad r(x) = -|n(x) - n^*|,

0 where the number is right. Which boxes are kept is not differentiable, their logits are: one that is nearly seen pulls
itself into sight where things are missing, and out of it where there are too many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.rewards.detectors import Detector, load_detector
from noiseward.rewards.hub import find_model
from noiseward.rewards.preprocess import check_images, widen
from noiseward.rewards.repos import count_repo
from noiseward.rewards.reward import Reward

__all__ = ["Count", "count", "keep_apart"]

SLOPE = 4.0
MOST = 100  # boxes that are looked at, the most likely ones
OVERLAP = 0.5  # intersection over union of two boxes of one thing


def keep_apart(boxes: Tensor, scores: Tensor, overlap: float = OVERLAP) -> Tensor:
    """The numbers of boxes that remain when each takes away those that overlap it and are less likely.

    Arguments:
        boxes: `(N, 4)`, left, top, right and bottom.
        scores: `(N,)`.
        overlap: intersection over union from which two boxes are of one thing.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [3, 3, 4, 4]])
        >>> keep_apart(boxes, torch.tensor([0.5, 0.9, 0.1])).tolist()
        [1, 2]
    """
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    corner, end = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (end - corner).clamp(min=0).prod(2)
    close = shared > overlap * (area[:, None] + area - shared)
    kept: list[int] = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        if not any(close[place, other] for other in kept):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


@final
class Count(Reward):
    """How near the number of things is to a number; 0 at most.

    Arguments:
        detect: finds them.
        number: how many there should be.
        threshold: the probability from which a box counts as more than half a thing.
    """

    differentiable = True
    name = "count"

    def __init__(self, detect: Detector, *, number: int = 1, threshold: float = 0.2) -> None:
        if number < 0 or not 0 < threshold < 1:
            raise ArgumentError(f"number must be >= 0 and threshold in (0, 1), got {number} and {threshold}")
        self.detect, self.model, self.number = detect, detect.model, number
        self._limit = math.log(threshold / (1 - threshold))

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return -(self.count(sample) - self.number).abs()

    def count(self, sample: Tensor) -> Tensor:
        """The number of things in each image, `(B,)`."""
        images = check_images(widen(sample))
        found = [self._count(image[None]) for image in images]
        return torch.stack(found).to(sample.dtype)

    def _count(self, image: Tensor) -> Tensor:
        every, boxes = self.detect(image)
        logits, places = every.topk(min(MOST, len(every)))
        center, size = boxes.detach()[places].split(2, 1)
        kept = keep_apart(torch.cat([center - size / 2, center + size / 2], 1), logits.detach())
        return (SLOPE * (logits[kept] - self._limit)).sigmoid().sum()


def count(
    target: str = "", *, number: int = 1, threshold: float = 0.2, model: str = "google/owlv2-base-patch16-ensemble"
) -> Count:
    """How near the number of things is to a number.

    Arguments:
        target: the thing, in words.
        number: how many there should be.
        threshold: the probability from which a box counts as more than half a thing.
        model: an OWLv2's or a Grounding DINO's hub id or folder.
    """
    if not target:
        raise ArgumentError("reward 'count' needs a thing, as in count:target=duck,number=3")
    folder = find_model(model, count_repo(model), "count")
    return Count(load_detector(Path(folder), target), number=number, threshold=threshold)
