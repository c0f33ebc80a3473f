r"""VQAScore: the probability that a vision-language model answers Yes when asked whether an image shows its prompt.

.. math:: r(x, c) = p(\text{Yes} \mid x, \text{'Does this figure show "c"? Please answer yes or no.'})

It reads compositions, such as who holds what and how many of them there are, where a dual encoder sees a bag of words.
The model is a CLIP-FlanT5 (`vqa_t5.py`), or a Qwen2-VL or Qwen2.5-VL as transformers has them, loaded from a folder or
the local cache of the hub. The image processor of these works outside torch; here the same steps keep the graph: both
sides are resized to multiples of a merged patch, within the model's bounds on pixels, normalized, doubled in time, and
cut into patches in the order of its merging.

References:
    Evaluating Text-to-Visual Generation with Image-to-Text Generation
    https://arxiv.org/abs/2404.01291
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ModelError, describe_error
from noiseward.rewards.dino import read_kind
from noiseward.rewards.hub import find_model
from noiseward.rewards.preprocess import check_images
from noiseward.rewards.repos import QUESTION, vqa_repo
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt
from noiseward.terminal import silence

__all__ = ["Patches", "VqaScore", "vqa"]

ASKED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
)
IMAGE = "<|image_pad|>"


@final
class Patches:
    """Turns images into the input of a Qwen-VL, with a graph.

    Arguments:
        config: of its image processor, `preprocessor_config.json`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.patch, self.merge = int(config.get("patch_size", 14)), int(config.get("merge_size", 2))
        self.frames = int(config.get("temporal_patch_size", 2))
        size = config.get("size") or {}
        self.least = int(config.get("min_pixels") or size.get("shortest_edge") or 56 * 56)
        self.most = int(config.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280)
        self.mean, self.std = (tuple(config[f"image_{name}"]) for name in ("mean", "std"))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size to which an image is resized."""
        unit = self.patch * self.merge
        tall, wide = (max(unit, round(side / unit) * unit) for side in (height, width))
        if tall * wide > self.most:
            shrink = math.sqrt(height * width / self.most)
            tall, wide = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
        elif tall * wide < self.least:
            grow = math.sqrt(self.least / (height * width))
            tall, wide = (math.ceil(side * grow / unit) * unit for side in (height, width))
        return tall, wide

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of all images one after the other, and each image's grid `(B, 3)`."""
        tall, wide = self.size(*images.shape[2:])
        sized = F.interpolate(images, (tall, wide), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(part).to(images).view(3, 1, 1) for part in (self.mean, self.std))
        down, right = tall // self.patch, wide // self.patch
        rows, (m, p) = len(images), (self.merge, self.patch)
        cells = ((sized - mean) / std).view(rows, 3, down // m, m, p, right // m, m, p)
        order = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]  # merged cells, patches in them, channels
        flat = order.expand(*order.shape[:6], self.frames, p, p).reshape(rows * down * right, -1)
        return flat, torch.tensor([[1, down, right]] * rows, device=images.device)


@final
class VqaScore(Reward):
    """The probability of Yes, from 0 to 1.

    Arguments:
        model: a `Qwen2VLForConditionalGeneration` or `Qwen2_5_VLForConditionalGeneration`; it is put into evaluation
            mode and frozen.
        tokenizer: its tokenizer.
        patches: its image processor.
        question: with {} for the prompt.

    Attributes:
        dtype: of its weights.
    """

    differentiable = True
    name = "vqa"

    def __init__(self, model: Any, tokenizer: Any, patches: Patches, *, question: str = QUESTION) -> None:
        self.model, self.tokenizer, self.patches = model.eval().requires_grad_(False), tokenizer, patches
        self.question, self.dtype = question, torch.bfloat16
        (self._yes,) = tokenizer("Yes", add_special_tokens=False).input_ids[:1]

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts, images = require_prompt(self.name, prompt), check_images(sample.float())
        rows = zip(images, texts, strict=True)
        return torch.cat([self._ask(image[None], text) for image, text in rows]).to(sample.dtype)

    def _ask(self, image: Tensor, text: str) -> Tensor:
        model = self.model.to(image.device, self.dtype)
        patches, grid = self.patches(image)
        places = len(patches) // self.patches.merge**2
        asked = ASKED.format(image=IMAGE * places, question=self.question.replace("{}", text))
        words = self.tokenizer(asked, return_tensors="pt", add_special_tokens=False).to(image.device)
        kinds = (words.input_ids == self.tokenizer.convert_tokens_to_ids(IMAGE)).int()
        logits = model(
            input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=patches.to(self.dtype),
            image_grid_thw=grid, mm_token_type_ids=kinds, use_cache=False,
        ).logits  # fmt: skip
        return logits[:, -1].float().softmax(1)[:, self._yes]


def vqa(
    model: str = "Qwen/Qwen2.5-VL-3B-Instruct", *, question: str = QUESTION, tokenizer: str = "", vision: str = ""
) -> Reward:
    """The probability that a Qwen-VL or a CLIP-FlanT5 answers Yes.

    Arguments:
        model: its hub id or folder.
        question: with {} for the prompt.
        tokenizer, vision: for a CLIP-FlanT5, folders with T5's tokenizer and the CLIP; default: the local cache.
    """
    folder = find_model(model, vqa_repo(model), "vqa")
    if read_kind(Path(folder)) == "clip_t5":
        from noiseward.rewards.vqa_t5 import load_t5

        return load_t5(Path(folder), f"vqa:model={model}", question=question, tokenizer=tokenizer, vision=vision)
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    try:
        with silence("transformers"):
            network = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
            tokenizer = AutoTokenizer.from_pretrained(folder)
        config = json.loads((Path(folder) / "preprocessor_config.json").read_text(encoding="utf-8"))
    except Exception as error:  # transformers and safetensors raise kinds of their own
        lfs.check_pointers(Path(folder))
        raise ModelError(f"{folder} cannot be loaded as a Qwen-VL: {describe_error(error, 200)}") from None
    if network.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        raise ModelError(
            f"expected a Qwen2-VL, Qwen2.5-VL or CLIP-FlanT5 in {folder}, got a {network.config.model_type}"
        )
    return VqaScore(network, tokenizer, Patches(config), question=question)
