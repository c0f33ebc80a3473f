r"""Dual encoders: how well a picture fits its prompt, by two networks that map both to one sphere.

CLIP and its many descendants embed a picture x and a text c as unit vectors; their score is the cosine

.. math:: r(x, c) = s \, \langle f(x), g(c) \rangle,

with a scale s that some (PickScore) learned and most report as 1 or 100. The text's vector is computed once per prompt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ModelError, RewardError, describe_error
from noiseward.rewards.preprocess import Preprocess
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import warn_if_cut
from noiseward.rewards.weights import JSON, Repo, files, without_bars

__all__ = [
    "PICKSCORE",
    "DualEncoder",
    "built_in",
    "clip",
    "clip_folder",
    "clip_repo",
    "judge",
    "pickscore",
    "judge_repos",
    "pickscore_repos",
    "repos",
]

PICKSCORE = Repo("yuvalkirstain/PickScore_v1", ("config.json", "model.safetensors"), JSON, 3945)

SIZES = {"openai/clip-vit-base-patch32": 605, "openai/clip-vit-large-patch14": 1712}  # MB


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
            length = self.model.config.text_config.max_position_embeddings
            warn_if_cut(self.name, self.tokenizer, new, length)
            words = self.tokenizer(new, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            ids = words.input_ids.to(self.model.device)
            with torch.no_grad():
                vectors = self.model.get_text_features(input_ids=ids).pooler_output
            self._known.update(zip(new, F.normalize(vectors.float(), dim=1), strict=True))
        return torch.stack([self._known[text] for text in prompts])

    @classmethod
    def load(cls, where: str | Path, *, name: str, scale: float | None = 1.0) -> DualEncoder:
        """A model from a folder or a hub id, with its tokenizer and image processor; scale None is the one it learned.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        try:
            with without_bars():
                loaded: Any = CLIPModel.from_pretrained(
                    where, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
                )
                model, found = loaded
                tokenizer = AutoTokenizer.from_pretrained(where)
                config = CLIPImageProcessorPil.from_pretrained(where).to_dict()
        except Exception as error:  # transformers, tokenizers and safetensors raise kinds of their own
            lfs.check(Path(where))
            raise ModelError(f"{where} cannot be loaded as a CLIP model: {describe_error(error, 200)}") from None
        wrong = [f"'{key}' is missing" for key in sorted(found["missing_keys"])]
        wrong += [
            f"'{key}' is {tuple(have)}, not {tuple(need)}" for key, have, need in sorted(found["mismatched_keys"])
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ModelError(f"{where} does not fit its configuration: {'; '.join(wrong[:3])}{more}")
        learned = model.logit_scale.exp().item()
        return cls(model, tokenizer, Preprocess.of(config), name=name, scale=learned if scale is None else scale)


def clip_repo(model: str) -> Repo:
    """What is needed of a CLIP on the hub."""
    return Repo(model, ("config.json", "model.safetensors"), JSON, SIZES.get(model, 0))


def clip_folder(model: str, reward: str) -> Path:
    """The folder of a CLIP: of the built-in model's (`stickers`), one's own, or a hub id's in the local cache."""
    if model == "stickers":
        return built_in("clip")
    own = Path(os.path.expanduser(model))
    return own if os.path.isdir(own) else files(clip_repo(model), "", f"{reward}:model={model}", argument="model")


def built_in(part: Literal["clip", "judge"]) -> Path:
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
    """The cosine of picture and prompt under a CLIP.

    Arguments:
        model: a hub id, a folder, or `stickers`: the one that comes with the built-in model.
        scale: what the cosine is multiplied by.
    """
    return DualEncoder.load(clip_folder(model, "clip"), name="clip", scale=scale)


def repos(model: str = "stickers", *, scale: float = 1.0) -> tuple[Repo, ...]:
    """What `clip` takes from the hub."""
    return () if model == "stickers" or os.path.isdir(os.path.expanduser(model)) else (clip_repo(model),)


def judge_repos() -> tuple[Repo, ...]:
    """Nothing: it comes with the built-in model."""
    return ()


def pickscore_repos(path: str = "") -> tuple[Repo, ...]:
    """What `pickscore` takes from the hub."""
    return () if path else (PICKSCORE,)


def judge() -> DualEncoder:
    """The CLIP that comes with the built-in model for judging alone, trained independently of its `clip`."""
    return DualEncoder.load(built_in("judge"), name="stickers-judge")


def pickscore(path: str = "") -> DualEncoder:
    """PickScore: a CLIP ViT-H/14 trained on choices people made between pictures; about 18 to 24.

    Arguments:
        path: a folder with its files; default: the local cache.

    References:
        Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation
        https://arxiv.org/abs/2305.01569
    """
    return DualEncoder.load(files(PICKSCORE, path, "pickscore"), name="pickscore", scale=None)
