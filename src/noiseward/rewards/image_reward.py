r"""ImageReward: human preference, scored by a BLIP that reads the prompt while it attends to the image.

The image's patches go through a ViT-L/16; a BERT reads the prompt, each of its layers also attending to the patches;
the vector at its first token goes through the same five linear layers as the aesthetic predictor's, and the result is
standardized, :math:`(h - \mu) / \sigma`, by the constants published with it: about -2 to 2, 0 on average.

The checkpoint has BLIP's own names (timm's for the ViT); transformers' `BlipVisionModel` and `BlipTextModel` compute
the same with its weights. The mapping is tested against a separate computation written from the architecture;
`scripts/reward-parity` compares it with the published weights, where they can be downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from noiseward.errors import ModelError
from noiseward.rewards.checkpoints import (
    Source,
    build_head,
    count_layers,
    get_tensor,
    load_weights,
    read_checkpoint,
)
from noiseward.rewards.hub import find_checkpoint, load_tokenizer
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from noiseward.rewards.repos import IMAGE_REWARD
from noiseward.rewards.repos import IMAGE_REWARD_TOKENIZER as TOKENIZER
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt, warn_if_cut
from noiseward.terminal import silence

__all__ = ["ImageReward", "convert_blip", "crop_square", "imagereward"]

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
UNUSED = ("*.position_ids", "blip.*_proj.*", "blip.itm_head.*", "blip.text_decoder.*", "blip.*_m.*", "*queue*",
          "blip.temp")  # fmt: skip


@final
class ImageReward(Reward):
    """BLIP and its head.

    Arguments:
        vision: a `transformers.BlipVisionModel`.
        text: a `BlipTextModel` with cross attention.
        head: from its vectors `(B, D)` to `(B, 1)`.
        tokenizer: BERT's.
        preprocess: applied to images.
        name: in tables and logs.
        words: tokens of a prompt that are read.
        mean, std: of the head's values.

    References:
        ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation
        https://arxiv.org/abs/2304.05977
    """

    differentiable = True

    def __init__(
        self, vision: Any, text: Any, head: nn.Module, tokenizer: Any, preprocess: Preprocess, *,
        name: str = "imagereward", words: int = WORDS, mean: float = MEAN, std: float = STD,
    ) -> None:  # fmt: skip
        self.name, self.words, self.mean, self.std = name, words, mean, std
        self.network = nn.ModuleDict({"vision": vision, "text": text, "head": head}).eval().requires_grad_(False)
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self._seen: set[str] = set()

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts = list(require_prompt(self.name, prompt))
        warn_if_cut(self.name, self.tokenizer, list(dict.fromkeys(t for t in texts if t not in self._seen)), self.words)
        self._seen.update(texts)
        parts = self.network.to(sample.device, torch.float32)
        patches = parts["vision"](pixel_values=self.preprocess(sample.float())).last_hidden_state
        limits = {"padding": "max_length", "truncation": True, "max_length": self.words}
        words = self.tokenizer(texts, **limits, return_tensors="pt").to(sample.device)
        joint = parts["text"](
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=sample.device),
        )
        scores = parts["head"](joint.last_hidden_state[:, 0]).squeeze(1)
        return ((scores - self.mean) / self.std).to(sample.dtype)


def imagereward(path: str = "", *, tokenizer: str = "") -> ImageReward:
    """ImageReward.

    Arguments:
        path: `ImageReward.pt`, or a folder with it; default: the local cache.
        tokenizer: a folder with BERT's tokenizer; default: that of the checkpoint if it is there, or the local cache.
    """
    from transformers import BertTokenizer

    file = find_checkpoint(IMAGE_REWARD, path, "imagereward")
    words = load_tokenizer(BertTokenizer, TOKENIZER, tokenizer, "imagereward", checkpoint=file if path else None)
    vision, text, head = convert_blip(read_checkpoint(file), file)
    return ImageReward(vision, text, head, words, crop_square(vision.config.image_size))


def crop_square(side: int) -> Preprocess:
    """The preprocessing of BLIP."""
    return Preprocess(side, (side, side), CLIP_MEAN, CLIP_STD, rounded=True)


Build = Callable[[Mapping[str, Tensor], Path, str], nn.Module]


def convert_blip(state: Mapping[str, Tensor], path: Path, build: Build = build_head) -> tuple[Any, Any, nn.Module]:
    """Load a checkpoint into a vision model, a text model and a head, which `build` makes.

    Raises:
        ModelError: the checkpoint is of another kind.
    """
    from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    def load_part(module: nn.Module, prefix: str, source_of: Callable[[str], Source]) -> None:
        own = {key: part for key, part in state.items() if key.startswith(prefix)}
        load_weights(module, own, source_of, path, ignored=UNUSED)

    patch, patches, words, places = (
        get_tensor(state, key, path)
        for key in (f"{VISION}patch_embed.proj.weight", f"{VISION}pos_embed",
                    f"{TEXT}embeddings.word_embeddings.weight", f"{TEXT}embeddings.position_embeddings.weight")
    )  # fmt: skip
    side = round((patches.shape[1] - 1) ** 0.5) * patch.shape[-1]
    try:
        with silence("transformers"):
            vision = BlipVisionModel(
                BlipVisionConfig(
                    hidden_size=patch.shape[0], patch_size=patch.shape[-1], image_size=side,
                    intermediate_size=get_tensor(state, f"{VISION}blocks.0.mlp.fc1.weight", path).shape[0],
                    num_hidden_layers=count_layers(state, f"{VISION}blocks."), num_attention_heads=VISION_HEADS,
                    layer_norm_eps=1e-6, hidden_act="gelu",
                )
            )  # fmt: skip
            text = BlipTextModel(
                BlipTextConfig(
                    vocab_size=len(words), hidden_size=words.shape[1], encoder_hidden_size=patch.shape[0],
                    intermediate_size=get_tensor(
                        state, f"{TEXT}encoder.layer.0.intermediate.dense.weight", path
                    ).shape[0],
                    num_hidden_layers=count_layers(state, f"{TEXT}encoder.layer."), num_attention_heads=TEXT_HEADS,
                    max_position_embeddings=len(places), layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0,
                    bos_token_id=None, eos_token_id=None, sep_token_id=None,
                ),
                add_pooling_layer=False,
            )  # fmt: skip
    except ValueError as error:  # a width that the heads do not divide
        raise ModelError(f"{path} does not fit: {str(error).splitlines()[0]}") from None
    load_part(vision, VISION, _vision_source)
    load_part(text, TEXT, lambda name: Source(TEXT + name))
    unknown = {key: part for key, part in state.items() if not key.startswith((VISION, TEXT, "mlp."))}
    head = build({key: part for key, part in state.items() if key.startswith("mlp.")}, path, "mlp.")
    load_weights(nn.Module(), unknown, Source, path, ignored=UNUSED)
    return vision, text, head


def _vision_source(name: str) -> Source:
    if match := LAYER.fullmatch(name):
        number, part, kind = match.groups()
        return Source(f"{VISION}blocks.{number}.{INNER[part]}.{kind}")
    return Source(VISION + PARTS[name])
