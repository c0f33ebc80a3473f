"""Small models with random weights, in the formats and under the names of the published checkpoints."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
)

from noiseward import stickers

HEAD = {0: (1024, None), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}


def make_images(rows: int = 3, height: int = 48, width: int = 64) -> Tensor:
    """Smooth images with 8-bit levels, as a decoder gives them."""
    coarse = torch.rand(rows, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def small_clip(where, *, dim: int = 16, words: int | None = None):
    """A CLIP's folder, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer")
    layers = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {
        **layers, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {**layers, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).save_pretrained(where)
    tokenizer.save_pretrained(where)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(where)
    return where


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3
        state[name] = scale * torch.randn(shape, generator=generator)
        if name.endswith("weight") and len(shape) == 1:
            state[name] += 1  # of a layer norm
    return state


def linear_head(width: int, prefix: str = "") -> dict[str, Tensor]:
    """The LAION head for vectors of some width."""
    shapes = {}
    for number, (rows, columns) in HEAD.items():
        shapes[f"{prefix}layers.{number}.weight"] = (rows, columns or width)
        shapes[f"{prefix}layers.{number}.bias"] = (rows,)
    return _random(shapes)


def gelu_head(width: int, prefix: str = "") -> dict[str, Tensor]:
    """CycleReward's head for vectors of some width."""
    sizes = (width, 1024, 128, 64, 16, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (columns, rows) in enumerate(zip(sizes, sizes[1:], strict=False)):
        shapes |= _linear(f"{prefix}layers.{2 * number}", rows, columns)
    return _random(shapes)


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def open_clip(vocab: int, *, width: int = 32, dim: int = 24, places: int = 16) -> dict[str, Tensor]:
    """A state dict of open_clip's `CLIP` for images of 28 x 28 in patches of 14."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (places, width), "text_projection": (width, dim), "logit_scale": (),
        "visual.class_embedding": (width,), "visual.positional_embedding": (5, width), "visual.proj": (width, dim),
        "visual.conv1.weight": (width, 3, 14, 14), "token_embedding.weight": (vocab, width),
        **_norm("visual.ln_pre", width), **_norm("visual.ln_post", width), **_norm("ln_final", width),
    }  # fmt: skip
    for tower, layers in (("visual.transformer", 3), ("transformer", 2)):
        for block in (f"{tower}.resblocks.{number}" for number in range(layers)):
            shapes |= {**_norm(f"{block}.ln_1", width), **_norm(f"{block}.ln_2", width)}
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            shapes |= _linear(f"{block}.attn.out_proj", width, width)
            shapes |= {**_linear(f"{block}.mlp.c_fc", 48, width), **_linear(f"{block}.mlp.c_proj", width, 48)}
    return _random(shapes)


def blip(vocab: int, *, width: int = 32, hidden: int = 24, places: int = 40) -> dict[str, Tensor]:
    """A state dict of ImageReward for images of 32 x 32 in patches of 16."""
    eye, mind = "blip.visual_encoder", "blip.text_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{eye}.cls_token": (1, 1, width), f"{eye}.pos_embed": (1, 5, width), **_norm(f"{eye}.norm", width),
        f"{eye}.patch_embed.proj.weight": (width, 3, 16, 16), f"{eye}.patch_embed.proj.bias": (width,),
        f"{mind}.embeddings.word_embeddings.weight": (vocab, hidden),
        f"{mind}.embeddings.position_embeddings.weight": (places, hidden),
        f"{mind}.embeddings.position_ids": (1, places), **_norm(f"{mind}.embeddings.LayerNorm", hidden),
    }  # fmt: skip
    for block in (f"{eye}.blocks.{number}" for number in range(2)):
        shapes |= {**_norm(f"{block}.norm1", width), **_norm(f"{block}.norm2", width)}
        shapes |= {**_linear(f"{block}.attn.qkv", 3 * width, width), **_linear(f"{block}.attn.proj", width, width)}
        shapes |= {**_linear(f"{block}.mlp.fc1", 48, width), **_linear(f"{block}.mlp.fc2", width, 48)}
    for layer in (f"{mind}.encoder.layer.{number}" for number in range(2)):
        for attention, source in (("attention", hidden), ("crossattention", width)):
            shapes |= _linear(f"{layer}.{attention}.self.query", hidden, hidden)
            shapes |= _linear(f"{layer}.{attention}.self.key", hidden, source)
            shapes |= _linear(f"{layer}.{attention}.self.value", hidden, source)
            shapes |= _linear(f"{layer}.{attention}.output.dense", hidden, hidden)
            shapes |= _norm(f"{layer}.{attention}.output.LayerNorm", hidden)
        shapes |= {**_linear(f"{layer}.intermediate.dense", 40, hidden), **_linear(f"{layer}.output.dense", hidden, 40)}
        shapes |= _norm(f"{layer}.output.LayerNorm", hidden)
    return _random(shapes) | linear_head(hidden, "mlp.")


def mps(vocab: int, *, width: int = 32, dim: int = 24, places: int = 16, head: int = 4) -> dict[str, Tensor]:
    """A state dict of MPS, as imscore converts it, for images of 28 x 28 in patches of 14."""
    model, heads, inner = "mps.model", 3, 40
    shapes: dict[str, tuple[int, ...]] = {
        f"{model}.logit_scale": (), f"{model}.visual_projection.weight": (dim, width),
        f"{model}.text_projection.weight": (dim, width),
        f"{model}.vision_model.embeddings.class_embedding": (width,),
        f"{model}.vision_model.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{model}.vision_model.embeddings.position_embedding.weight": (5, width),
        f"{model}.text_model.embeddings.token_embedding.weight": (vocab, width),
        f"{model}.text_model.embeddings.position_embedding.weight": (places, width),
        **_norm(f"{model}.vision_model.pre_layrnorm", width), **_norm(f"{model}.vision_model.post_layernorm", width),
        **_norm(f"{model}.text_model.final_layer_norm", width),
    }  # fmt: skip
    for block in (
        f"{model}.{tower}_model.encoder.layers.{number}" for tower in ("vision", "text") for number in (0, 1)
    ):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{block}.self_attn.{part}", width, width)
        shapes |= {**_linear(f"{block}.mlp.fc1", 48, width), **_linear(f"{block}.mlp.fc2", width, 48)}
        shapes |= {**_norm(f"{block}.layer_norm1", width), **_norm(f"{block}.layer_norm2", width)}
    for layer in (f"mps.cross_model.layers.{number}" for number in (0, 1)):
        one, other = f"{layer}.0.fn", f"{layer}.1.fn"
        shapes |= {**_norm(f"{one}.norm", dim), **_norm(f"{other}.norm", dim)}
        shapes |= {f"{one}.to_q.weight": (heads * head, dim), f"{one}.to_kv.weight": (2 * head, dim)}
        shapes |= {f"{one}.to_out.weight": (dim, heads * head), f"{one}.ff.0.weight": (2 * inner, dim)}
        shapes |= {f"{one}.ff.2.weight": (dim, inner), f"{other}.rotary_emb.inv_freq": (head // 2,)}
        shapes |= {f"{other}.fused_attn_ff_proj.weight": (heads * head + 2 * head + 2 * inner, dim)}
        shapes |= {f"{other}.attn_out.weight": (dim, heads * head), f"{other}.ff_out.1.weight": (dim, inner)}
    return _random(shapes)


def bert_tokenizer() -> BertTokenizer:
    """Letters and a few words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "duck", "heart", "on", "red", "the", "background"]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """A few words, and the tokens of a Qwen-VL."""
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = ["Yes", "No", "a", "duck", "heart", "red", "figure", "show", "Please", "answer", "yes", "or", "no", "user",
             "?", ".", '"', "on", "background", "assistant", "system"]  # fmt: skip
    vocabulary = {word: place for place, word in enumerate([*special, *words, "[UNK]"])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", additional_special_tokens=special)
