"""Tiny tokenizers and text encoders: single letters are the words."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WIDTH = 16


def clip_tokenizer(length: int = 8) -> Any:
    """Letters, in CLIP's way: the end of a text is the last token there is."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def clip(*, projected: bool = False, layers: int = 1) -> Any:
    """A CLIP text encoder of width 16; projected: with the pooled embedding that SDXL and SD3 want."""
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=52, eos_token_id=53, pad_token_id=53, projection_dim=WIDTH,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_tokenizer() -> Any:
    """Letters, with and without the mark of a word's beginning."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
    return T5Tokenizer(vocab=[(piece, -float(k)) for k, piece in enumerate(pieces)], extra_ids=0, model_max_length=8)


def t5(width: int = 2 * WIDTH) -> Any:
    """A T5 encoder."""
    return T5EncoderModel(
        T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    )
