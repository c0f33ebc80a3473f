r"""How many of a thing an image shows, by a detector that takes the name of what to look for (OWLv2).

The detector gives each of its boxes a logit :math:`\ell` of being the thing. Of boxes that overlap, the most likely one
is kept. With the logit t of a threshold and a slope k, the number of things and the reward are

.. math:: n(x) = \sum_{i \text{ kept}} \sigma(k (\ell_i - t)), \qquad r(x) = -|n(x) - n^*|,

0 where the number is right. Which boxes are kept is not differentiable, their logits are: one that is nearly seen pulls
itself into sight where things are missing, and out of it where there are too many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, describe_error
from noiseward.rewards.hub import find_model
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, check_images, widen
from noiseward.rewards.repos import count_repo
from noiseward.rewards.reward import Reward
from noiseward.terminal import silence

__all__ = ["Count", "count", "keep_apart"]

SLOPE = 4.0
MOST = 100  # boxes that are looked at, the most likely ones
OVERLAP = 0.5  # intersection over union of two boxes of one thing
GRAY = 0.5  # what an image is filled up with to a square


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
        model: an `Owlv2ForObjectDetection`; it is put into evaluation mode and frozen.
        tokenizer: its tokenizer.
        side: of the square that it looks at.
        target: the thing, in words.
        number: how many there should be.
        threshold: the probability from which a box counts as more than half a thing.

    References:
        Scaling Open-Vocabulary Object Detection
        https://arxiv.org/abs/2306.09683
    """

    differentiable = True
    name = "count"

    def __init__(
        self, model: Any, tokenizer: Any, side: int, *, target: str, number: int = 1, threshold: float = 0.2
    ) -> None:
        if number < 0 or not 0 < threshold < 1:
            raise ArgumentError(f"number must be >= 0 and threshold in (0, 1), got {number} and {threshold}")
        self.model, self.side, self.number = model.eval().requires_grad_(False), side, number
        self.target, self._limit = target, math.log(threshold / (1 - threshold))
        length = model.config.text_config.max_position_embeddings
        asked = [f"a photo of a {target}"]
        words = tokenizer(asked, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self._words = {name: words[name] for name in ("input_ids", "attention_mask")}

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return -(self.count(sample) - self.number).abs()

    def count(self, sample: Tensor) -> Tensor:
        """The number of things in each image, `(B,)`."""
        images = check_images(widen(sample))
        found = [self._count(image[None]) for image in images]
        return torch.stack(found).to(sample.dtype)

    def _count(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        longer = max(height, width)
        square = F.pad(image, (0, longer - width, 0, longer - height), value=GRAY)
        sized = F.interpolate(square, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(part).to(image).view(3, 1, 1) for part in (CLIP_MEAN, CLIP_STD))
        words = {name: part.to(image.device) for name, part in self._words.items()}
        seen = self.model.to(image)(pixel_values=(sized - mean) / std, **words)
        logits, places = seen.logits[0, :, 0].topk(min(MOST, seen.logits.shape[1]))
        center, size = seen.pred_boxes[0].detach()[places].split(2, 1)
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
        model: an OWLv2's hub id or folder.
    """
    if not target:
        raise ArgumentError("reward 'count' needs a thing, as in count:target=duck,number=3")
    folder = find_model(model, count_repo(model), "count")
    from transformers import AutoTokenizer, Owlv2ForObjectDetection

    try:
        with silence("transformers"):
            network = Owlv2ForObjectDetection.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        config = json.loads((Path(folder) / "preprocessor_config.json").read_text(encoding="utf-8"))
        side = int(config["size"]["height"])
    except Exception as error:  # transformers and safetensors raise kinds of their own
        lfs.check_pointers(Path(folder))
        raise ModelError(f"{folder} cannot be loaded as an OWLv2: {describe_error(error, 200)}") from None
    return Count(network, tokenizer, side, target=target, number=number, threshold=threshold)
