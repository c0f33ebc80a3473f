r"""ImageReward: human preference, scored by BLIP reading the prompt with the picture before its eyes.

The picture's patches go through a ViT-L/16; a BERT reads the prompt, each of its layers also attending to the patches;
the vector at its first token goes through the same five linear layers as the aesthetic predictor's, and the result is
standardized, :math:`(h - \mu) / \sigma`, by the constants published with it: about -2 to 2, 0 on average.

The checkpoint has BLIP's own names (timm's for the ViT); its weights are given to transformers' `BlipVisionModel` and
`BlipTextModel`, which compute the same. Here the mapping is tested against a separate computation written from the
architecture; against the published weights it is compared by `scripts/reward-parity`, where they can be had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from noiseward.errors import ModelError, RewardError
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import warn_if_cut
from noiseward.rewards.weights import JSON, Repo, Source, files, fit, head, one, read, without_bars

__all__ = ["IMAGE_REWARD", "TOKENIZER", "ImageReward", "imagereward", "repos"]

IMAGE_REWARD = Repo("THUDM/ImageReward", ("ImageReward.pt",), (), 1790)
TOKENIZER = Repo("google-bert/bert-base-uncased", ("tokenizer.json", "tokenizer_config.json"), JSON, 1)
MEAN, STD = 0.16717362830052426, 1.0333394966054072
WORDS = 35  # tokens of a prompt that are read
VISION_HEADS, TEXT_HEADS = 16, 12

PARTS = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.patch_embedding.bias": "patch_embed.proj.bias",
    "post_layernorm.weight": "norm.weight",
    "post_layernorm.bias": "norm.bias",
}
INNER = {"self_attn.qkv": "attn.qkv", "self_attn.projection": "attn.proj", "layer_norm1": "norm1",
         "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
# left over from BLIP's own training, where a checkpoint has it
UNUSED = (
    "*.position_ids",
    "blip.*_proj.*",
    "blip.itm_head.*",
    "blip.text_decoder.*",
    "blip.*_m.*",
    "*queue*",
    "blip.temp",
)


@final
class ImageReward(Reward):
    """BLIP and its head.

    Arguments:
        vision: a `transformers.BlipVisionModel`.
        text: a `BlipTextModel` with cross attention.
        head: from its vectors `(B, D)` to `(B, 1)`.
        tokenizer: BERT's.
        preprocess: what pictures go through.

    References:
        ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation
        https://arxiv.org/abs/2304.05977
    """

    differentiable = True
    name = "imagereward"

    def __init__(self, vision: Any, text: Any, head: nn.Module, tokenizer: Any, preprocess: Preprocess) -> None:
        self.network = nn.ModuleDict({"vision": vision, "text": text, "head": head}).eval().requires_grad_(False)
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self._known: set[str] = set()

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        if prompt is None:
            raise RewardError(f"reward '{self.name}' compares pictures with prompts: the model has none; give a prompt")
        warn_if_cut(
            self.name, self.tokenizer, [text for text in dict.fromkeys(prompt) if text not in self._known], WORDS
        )
        self._known.update(prompt)
        parts = self.network.to(sample.device, torch.float32)
        patches = parts["vision"](pixel_values=self.preprocess(sample.float())).last_hidden_state
        words = self.tokenizer(
            list(prompt), padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt"
        ).to(sample.device)
        read = parts["text"](
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=sample.device),
        )
        scores = parts["head"](read.last_hidden_state[:, 0]).squeeze(1)
        return ((scores - MEAN) / STD).to(sample.dtype)


def repos(path: str = "", *, tokenizer: str = "") -> tuple[Repo, ...]:
    """What `imagereward` takes from the hub."""
    return (*(() if path else (IMAGE_REWARD,)), *(() if tokenizer else (TOKENIZER,)))


def imagereward(path: str = "", *, tokenizer: str = "") -> ImageReward:
    """ImageReward.

    Arguments:
        path: `ImageReward.pt`, or a folder with it; default: the local cache.
        tokenizer: a folder with BERT's tokenizer; default: beside the checkpoint if it is there, or the local cache.
    """
    own = Path(os.path.expanduser(path))
    file = own if path and os.path.isfile(own) else files(IMAGE_REWARD, path, "imagereward") / IMAGE_REWARD.wanted[0]
    beside = path and not tokenizer and (file.parent / "tokenizer.json").exists()
    words = file.parent if beside else files(TOKENIZER, tokenizer, "imagereward", argument="tokenizer")
    vision, text, top = from_blip(read(file), file)
    from transformers import BertTokenizer

    try:
        with without_bars():
            known = BertTokenizer.from_pretrained(words)
    except (OSError, ValueError) as error:
        raise ModelError(f"{words} holds no tokenizer that can be loaded: {str(error).splitlines()[0]}") from None
    side = vision.config.image_size
    return ImageReward(vision, text, top, known, Preprocess(side, (side, side), CLIP_MEAN, CLIP_STD, rounded=True))


def from_blip(state: Mapping[str, Tensor], path: Path) -> tuple[Any, Any, nn.Module]:
    """Vision model, text model and head with a checkpoint's weights.

    Raises:
        ModelError: the checkpoint is of another kind.
    """
    from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    patch, spots = one(state, f"{VISION}patch_embed.proj.weight", path), one(state, f"{VISION}pos_embed", path)
    words = one(state, f"{TEXT}embeddings.word_embeddings.weight", path)
    places = one(state, f"{TEXT}embeddings.position_embeddings.weight", path)
    side = round((spots.shape[1] - 1) ** 0.5) * patch.shape[-1]
    try:
        with without_bars():
            vision = BlipVisionModel(
                BlipVisionConfig(
                    hidden_size=patch.shape[0], patch_size=patch.shape[-1], image_size=side,
                    intermediate_size=one(state, f"{VISION}blocks.0.mlp.fc1.weight", path).shape[0],
                    num_hidden_layers=_layers(state, f"{VISION}blocks."), num_attention_heads=VISION_HEADS,
                    layer_norm_eps=1e-6, hidden_act="gelu",
                )
            )  # fmt: skip
            text = BlipTextModel(
                BlipTextConfig(
                    vocab_size=len(words), hidden_size=words.shape[1], encoder_hidden_size=patch.shape[0],
                    intermediate_size=one(state, f"{TEXT}encoder.layer.0.intermediate.dense.weight", path).shape[0],
                    num_hidden_layers=_layers(state, f"{TEXT}encoder.layer."), num_attention_heads=TEXT_HEADS,
                    max_position_embeddings=len(places), layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0,
                    bos_token_id=None, eos_token_id=None, sep_token_id=None,
                ),
                add_pooling_layer=False,
            )  # fmt: skip
    except ValueError as error:  # a width that the heads do not divide
        raise ModelError(f"{path} does not fit: {str(error).splitlines()[0]}") from None
    _part(vision, state, VISION, _vision_source, path)
    _part(text, state, TEXT, lambda name: Source(TEXT + name), path)
    strangers = [key for key in state if not key.startswith((VISION, TEXT, "mlp."))]
    top = head({key: part for key, part in state.items() if key.startswith("mlp.")}, path, "mlp.")
    fit(nn.Module(), {key: state[key] for key in strangers}, Source, path, ignored=UNUSED)
    return vision, text, top


def _part(
    module: nn.Module, state: Mapping[str, Tensor], start: str, source: Callable[[str], Source], path: Path
) -> None:
    own = {key: part for key, part in state.items() if key.startswith(start)}
    fit(module, own, source, path, ignored=UNUSED)


def _layers(state: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start))


def _vision_source(name: str) -> Source:
    if found := LAYER.fullmatch(name):
        number, part, kind = found.groups()
        return Source(f"{VISION}blocks.{number}.{INNER[part]}.{kind}")
    return Source(VISION + PARTS[name])
