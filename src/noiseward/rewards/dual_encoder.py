r"""Dual encoders: how well an image fits its prompt, by two networks that map both to one sphere.

CLIP and its many descendants embed an image x and a text c as unit vectors; their score is the cosine

.. math:: r(x, c) = s \, \langle f(x), g(c) \rangle,

with a scale s that some (PickScore) learned and most report as 1 or 100. The text's vector is computed once per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ModelError, describe_error
from noiseward.rewards.checkpoints import summarize
from noiseward.rewards.dino import read_kind
from noiseward.rewards.hub import find_folder, find_model
from noiseward.rewards.preprocess import Preprocess
from noiseward.rewards.repos import PICKSCORE, clip_repo
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt, warn_if_cut
from noiseward.terminal import silence

__all__ = ["DualEncoder", "clip", "find_built_in", "judge", "load_clip", "pickscore"]


@final
class DualEncoder(Reward):
    """The similarity of an image and its prompt under a `CLIPModel` or a `SiglipModel`.

    Arguments:
        model: one of transformers; it is put into evaluation mode and frozen.
        tokenizer: its tokenizer.
        preprocess: applied to images.
        name: in tables and logs.
        scale: s.

    Attributes:
        dtype: of the weights.

    References:
        Learning Transferable Visual Models From Natural Language Supervision
        https://arxiv.org/abs/2103.00020
    """

    differentiable = True

    def __init__(self, model: Any, tokenizer: Any, preprocess: Preprocess, *, name: str, scale: float = 1.0) -> None:
        self.name, self.scale = name, scale
        self.model, self.tokenizer, self.preprocess = model.eval().requires_grad_(False), tokenizer, preprocess
        self.dtype, self._vectors = torch.float32, dict[str, Tensor]()

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts = require_prompt(self.name, prompt)
        return self.scale * (self.encode_images(sample) * self.encode_texts(texts).to(sample)).sum(1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of images `(B, 3, H, W)` in [0, 1]."""
        model = self.model.to(images.device, self.dtype)
        pixels = self.preprocess(images.float()).to(self.dtype)
        vectors = model.get_image_features(pixel_values=pixels).pooler_output.float()
        return F.normalize(vectors, dim=1).to(images.dtype)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `(B, D)` of texts; each text is encoded once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            length = self.model.config.text_config.max_position_embeddings
            warn_if_cut(self.name, self.tokenizer, new, length)
            words = self.tokenizer(new, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            ids = words.input_ids.to(self.model.device)
            with torch.no_grad():
                vectors = self.model.get_text_features(input_ids=ids).pooler_output
            self._vectors.update(zip(new, F.normalize(vectors.float(), dim=1), strict=True))
        return torch.stack([self._vectors[text].to(self.model.device) for text in texts])

    @classmethod
    def load(cls, folder: str | Path, *, name: str, scale: float | None = 1.0) -> DualEncoder:
        """Load a model from a folder, with its tokenizer and image processor.

        Arguments:
            folder: where.
            name: in tables and logs.
            scale: s; None for the one it learned.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, SiglipImageProcessorPil, SiglipModel

        is_siglip = read_kind(Path(folder)) == "siglip"
        kind, processor = (SiglipModel, SiglipImageProcessorPil) if is_siglip else (CLIPModel, CLIPImageProcessorPil)

        try:
            with silence("transformers"):
                loaded: Any = kind.from_pretrained(
                    folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
                )
                model, info = loaded
                tokenizer = AutoTokenizer.from_pretrained(folder)
                config = processor.from_pretrained(folder).to_dict()
        except Exception as error:  # transformers, tokenizers and safetensors raise kinds of their own
            lfs.check_pointers(Path(folder))
            raise ModelError(f"{folder} cannot be loaded as a CLIP model: {describe_error(error, 200)}") from None
        problems = [f"'{key}' is missing" for key in sorted(info["missing_keys"])]
        problems += [
            f"'{key}' is {tuple(shape)}, not {tuple(need)}" for key, shape, need in sorted(info["mismatched_keys"])
        ]
        if problems:
            raise ModelError(f"{folder} does not fit its configuration: {summarize(problems)}")
        learned = model.logit_scale.exp().item()
        return cls(model, tokenizer, Preprocess.of(config), name=name, scale=learned if scale is None else scale)


def load_clip(model: str, reward: str) -> DualEncoder:
    """Load a CLIP: the built-in model's (`stickers`), a folder, or a hub id from the local cache."""
    folder = find_built_in("clip") if model == "stickers" else find_model(model, clip_repo(model), reward)
    return DualEncoder.load(folder, name="clip")


def find_built_in(part: Literal["clip", "judge"]) -> Path:
    """The folder of a CLIP that comes with the built-in model.

    Raises:
        ModelError: this version has none.
    """
    from noiseward import stickers

    folder = stickers.path(part)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"this version of stickers comes without its {part}: name another CLIP, as in "
            "clip:model=openai/clip-vit-base-patch32"
        )
    return folder


def clip(model: str = "stickers", *, scale: float = 1.0) -> DualEncoder:
    """The cosine of image and prompt under a CLIP.

    Arguments:
        model: a hub id, a folder, or `stickers`: the one that comes with the built-in model.
        scale: of the cosine.
    """
    encoder = load_clip(model, "clip")
    encoder.scale = scale
    return encoder


def judge() -> DualEncoder:
    """The CLIP that comes with the built-in model for judging alone, trained independently of its `clip`."""
    return DualEncoder.load(find_built_in("judge"), name="stickers-judge")


def pickscore(path: str = "") -> DualEncoder:
    """PickScore: a CLIP ViT-H/14 trained on choices people made between images; about 18 to 24.

    Arguments:
        path: a folder with its files; default: the local cache.

    References:
        Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation
        https://arxiv.org/abs/2305.01569
    """
    return DualEncoder.load(find_folder(PICKSCORE, path, "pickscore"), name="pickscore", scale=None)
