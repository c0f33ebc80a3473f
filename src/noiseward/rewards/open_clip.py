r"""HPSv2: human preference, scored by a CLIP ViT-H/14 that was trained with open_clip.

Its checkpoint has open_clip's names; :func:`convert_open_clip` loads its weights into a `transformers.CLIPModel`, which
computes the same: pre-norm transformers with exact GELU, the text's vector read off at its last token, one matrix of
query, key and value cut into three, and projections stored transposed. Sizes are read off the shapes; the number of
heads cannot be, and is ViT-H's 16 in both towers.

Images are resized so that the longer side is 224 and padded with black, as the authors' own code does. (Later copies
crop instead. Square images are the same either way.) The score is the plain cosine, about 0.2 to 0.35.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from noiseward.errors import ModelError
from noiseward.rewards.checkpoints import Source, count_layers, get_tensor, load_weights, read_checkpoint
from noiseward.rewards.dual_encoder import DualEncoder
from noiseward.rewards.hub import find_checkpoint, load_tokenizer
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from noiseward.rewards.repos import HPSV2, HPSV2_TOKENIZER, check_version

__all__ = ["convert_open_clip", "hpsv2"]

HEADS = 16

NAMES = {
    "visual_projection.weight": Source("visual.proj", transposed=True),
    "text_projection.weight": Source("text_projection", transposed=True),
    "logit_scale": Source("logit_scale"),
    "vision_model.embeddings.class_embedding": Source("visual.class_embedding"),
    "vision_model.embeddings.patch_embedding.weight": Source("visual.conv1.weight"),
    "vision_model.embeddings.position_embedding.weight": Source("visual.positional_embedding"),
    "text_model.embeddings.token_embedding.weight": Source("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": Source("positional_embedding"),
}
PARTS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}
TOWERS = {"vision_model": "visual.transformer", "text_model": "transformer"}
INNER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
         "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
LAYER = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def _source(name: str) -> Source:
    """Where open_clip keeps a parameter of `CLIPModel`."""
    if name in NAMES:
        return NAMES[name]
    if match := LAYER.fullmatch(name):
        tower, number, part, kind = match.groups()
        block = f"{TOWERS[tower]}.resblocks.{number}"
        if part in INNER:
            return Source(f"{block}.{INNER[part]}.{kind}")
        return Source(f"{block}.attn.in_proj_{kind}", third="qkv".index(part.removeprefix("self_attn.")[0]))
    part, _, kind = name.rpartition(".")
    return Source(f"{PARTS.get(part, part)}.{kind}")


def convert_open_clip(state: Mapping[str, Tensor], path: Path, *, heads: int = HEADS, act: str = "gelu") -> Any:
    """Load an open_clip checkpoint into a `CLIPModel`.

    Arguments:
        state: the checkpoint.
        path: its path, for messages.
        heads: attention heads of both towers.
        act: `gelu`; `quick_gelu` for what OpenAI trained.

    Raises:
        ModelError: the checkpoint is of another kind.
    """
    from transformers import CLIPConfig, CLIPModel

    conv, patches, words, places, projection = (
        get_tensor(state, key, path)
        for key in ("visual.conv1.weight", "visual.positional_embedding", "token_embedding.weight",
                    "positional_embedding", "text_projection")
    )  # fmt: skip
    starts = [f"{tower}.resblocks." for tower in TOWERS.values()]
    mlps = [get_tensor(state, f"{start}0.mlp.c_fc.weight", path).shape[0] for start in starts]
    layers = [count_layers(state, start) for start in starts]
    shared = {"hidden_act": act, "num_attention_heads": heads}
    vision = {
        **shared, "hidden_size": conv.shape[0], "patch_size": conv.shape[-1], "num_hidden_layers": layers[0],
        "intermediate_size": mlps[0], "image_size": round((len(patches) - 1) ** 0.5) * conv.shape[-1],
    }  # fmt: skip
    text = {
        **shared, "hidden_size": words.shape[1], "vocab_size": len(words), "max_position_embeddings": len(places),
        "num_hidden_layers": layers[1], "intermediate_size": mlps[1], "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1, "pad_token_id": 0,
    }  # fmt: skip
    try:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection.shape[-1]))
    except ValueError as error:  # a width that the heads do not divide
        raise ModelError(f"{path} does not fit: {str(error).splitlines()[0]}") from None
    load_weights(model, state, _source, path, ignored=("attn_mask", "*.attn_mask"))
    return model


def hpsv2(version: str = "2.1", *, path: str = "", tokenizer: str = "") -> DualEncoder:
    """HPSv2, the cosine of image and prompt under a CLIP ViT-H/14 trained on human preference.

    Arguments:
        version: `2.0` or `2.1`.
        path: the checkpoint, or a folder with it; default: the local cache.
        tokenizer: a folder with CLIP's tokenizer; default: that of the checkpoint if it is there, or the local cache.

    References:
        Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of Text-to-Image Synthesis
        https://arxiv.org/abs/2306.09341
    """
    from transformers import AutoTokenizer

    version = check_version(version)
    name = f"hpsv2:version={version}"
    file = find_checkpoint(HPSV2[version], path, name)
    words = load_tokenizer(AutoTokenizer, HPSV2_TOKENIZER, tokenizer, name, checkpoint=file if path else None)
    model = convert_open_clip(read_checkpoint(file), file)
    side = model.config.vision_config.image_size
    return DualEncoder(model, words, Preprocess(None, (side, side), CLIP_MEAN, CLIP_STD, padded=True), name="hpsv2")
