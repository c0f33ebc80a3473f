r"""Detectors that look for what words name: boxes in an image, each with a logit of being the thing.

OWLv2 looks at a square of fixed size, filled up with gray, and compares each patch with the words as a CLIP does.
Grounding DINO looks at the image in its own proportions, with a shorter side of 800 pixels or so; its boxes have a
logit for every token of the words, of which the largest is the box's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ModelError, describe_error
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD
from noiseward.terminal import silence

__all__ = ["Detector", "GroundingDino", "Owl", "load_detector"]

GRAY = 0.5  # what an image is filled up with to a square
SHORTER, LONGER = 800, 1333


class Detector(Protocol):
    """Finds one thing in an image.

    Attributes:
        model: it is in evaluation mode and frozen.
    """

    model: Any

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N,)` of boxes, and the boxes `(N, 4)` as center and size, of one image `(1, 3, H, W)`."""
        ...


@final
class Owl:
    """OWLv2.

    Arguments:
        model: an `Owlv2ForObjectDetection`.
        tokenizer: its tokenizer.
        side: of the square that it looks at.
        target: the thing, in words.

    References:
        Scaling Open-Vocabulary Object Detection
        https://arxiv.org/abs/2306.09683
    """

    def __init__(self, model: Any, tokenizer: Any, side: int, *, target: str) -> None:
        self.model, self.side = model.eval().requires_grad_(False), side
        length = model.config.text_config.max_position_embeddings
        asked = [f"a photo of a {target}"]
        words = tokenizer(asked, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self._words = {name: words[name] for name in ("input_ids", "attention_mask")}

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[2:]
        longer = max(height, width)
        square = F.pad(image, (0, longer - width, 0, longer - height), value=GRAY)
        sized = _resize(square, (self.side, self.side))
        words = {name: part.to(image.device) for name, part in self._words.items()}
        seen = self.model.to(image)(pixel_values=_normalize(sized, CLIP_MEAN, CLIP_STD), **words)
        return seen.logits[0, :, 0], seen.pred_boxes[0]


@final
class GroundingDino:
    """Grounding DINO.

    Arguments:
        model: a `GroundingDinoForObjectDetection`.
        tokenizer: its tokenizer.
        config: of its image processor, `preprocessor_config.json`.
        target: the thing, in words.

    References:
        Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection
        https://arxiv.org/abs/2303.05499
    """

    def __init__(self, model: Any, tokenizer: Any, config: dict[str, Any], *, target: str) -> None:
        self.model, size = model.eval().requires_grad_(False), config.get("size") or {}
        self.shorter, self.longer = int(size.get("shortest_edge", SHORTER)), int(size.get("longest_edge", LONGER))
        self.mean, self.std = tuple(config["image_mean"]), tuple(config["image_std"])
        self._words = dict(tokenizer([f"{target.lower().strip(' .')}."], return_tensors="pt"))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size to which an image is resized: its shorter side as it should be, unless the longer gets too long."""
        low, high = sorted((height, width))
        exact = self.longer * low / high if high / low * self.shorter > self.longer else float(self.shorter)
        short = round(exact)
        if low == short:
            return height, width
        long = int(exact * high / low)
        return (short, long) if height <= width else (long, short)

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        sized = _resize(image, self.size(*image.shape[2:]))
        words = {name: part.to(image.device) for name, part in self._words.items()}
        seen = self.model.to(image)(pixel_values=_normalize(sized, self.mean, self.std), **words)
        return seen.logits[0].amax(1), seen.pred_boxes[0]


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def _normalize(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    center, scale = (torch.tensor(part).to(image).view(3, 1, 1) for part in (mean, std))
    return (image - center) / scale


def load_detector(folder: Path, target: str) -> Detector:
    """Load a detector from a folder.

    Raises:
        ModelError: it cannot be loaded, or is of another kind.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer

    try:
        with silence("transformers"):
            network = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        if network.config.model_type == "grounding-dino":
            return GroundingDino(network, tokenizer, config, target=target)
        side = int(config["size"]["height"])
    except Exception as error:  # transformers and safetensors raise kinds of their own
        lfs.check_pointers(folder)
        raise ModelError(f"{folder} cannot be loaded as an OWLv2: {describe_error(error, 200)}") from None
    if network.config.model_type != "owlv2":
        raise ModelError(f"expected an OWLv2 or a Grounding DINO in {folder}, got a {network.config.model_type}")
    return Owl(network, tokenizer, side, target=target)
