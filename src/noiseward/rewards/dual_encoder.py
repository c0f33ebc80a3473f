r"""Dual encoders: how well a picture fits its prompt, by two networks that map both to one sphere.

CLIP and its many descendants embed a picture x and a text c as unit vectors; their score is the cosine

.. math:: r(x, c) = s \, \langle f(x), g(c) \rangle,

with a scale s that some (PickScore) learned and most report as 1 or 100. The text's vector is computed once per prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward.errors import ModelError, RewardError
from noiseward.reward import Reward
from noiseward.rewards.preprocess import Preprocess

__all__ = ["DualEncoder"]


@final
class DualEncoder(Reward):
    """The similarity of a picture and its prompt under a `CLIPModel`.

    Arguments:
        model: a `transformers.CLIPModel`; it is put into evaluation mode and frozen.
        tokenizer: its tokenizer.
        preprocess: what its pictures go through.
        name: how tables call it.
        scale: s.

    References:
        Learning Transferable Visual Models From Natural Language Supervision
        https://arxiv.org/abs/2103.00020
    """

    differentiable = True

    def __init__(self, model: Any, tokenizer: Any, preprocess: Preprocess, *, name: str, scale: float = 1.0) -> None:
        self.name, self.scale = name, scale
        self.model, self.tokenizer, self.preprocess = model.eval().requires_grad_(False), tokenizer, preprocess
        self._known: dict[str, Tensor] = {}

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        if prompt is None:
            raise RewardError(f"reward '{self.name}' compares pictures with prompts: the model has none; give a prompt")
        return self.scale * (self.pictures(sample) * self.texts(prompt).to(sample)).sum(1)

    def pictures(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of pictures `(B, 3, H, W)` in [0, 1]."""
        model = self.model.to(images.device, torch.float32)
        pixels = self.preprocess(images.float())
        return F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1).to(images.dtype)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors `(B, D)` of texts; each text is encoded once."""
        new = [text for text in dict.fromkeys(prompts) if text not in self._known]
        if new:
            words = self.tokenizer(new, padding="max_length", truncation=True, return_tensors="pt")
            ids = words.input_ids.to(self.model.device)
            with torch.no_grad():
                vectors = self.model.get_text_features(input_ids=ids).pooler_output
            self._known.update(zip(new, F.normalize(vectors.float(), dim=1), strict=True))
        return torch.stack([self._known[text] for text in prompts])

    @classmethod
    def load(cls, where: str | Path, *, name: str, scale: float = 1.0) -> DualEncoder:
        """A model from a folder or a hub id, with its tokenizer and image processor.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        try:
            with _without_bars():
                model = CLIPModel.from_pretrained(where, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(where)
                config = CLIPImageProcessorPil.from_pretrained(where).to_dict()
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"{where} cannot be loaded as a CLIP model: {first}") from None
        return cls(model, tokenizer, Preprocess.of(config), name=name, scale=scale)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
