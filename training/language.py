"""The tokenizer that the pipeline and both CLIPs share, and the pipeline's text encoder.

Byte-level BPE, as CLIP's: the 256 byte symbols come first, each also as the end of a word, so that any
string has tokens. Then, word by word, the merges that are still missing for the word to be a single token
are appended. A new merge ranks last, so it never disturbs the words before it.

The tokens of the words that were known before 0.3 come first, then the start and the end token, then those of the
later words: every token of an older version keeps its number, and a text encoder grows by rows at the end of its
embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from training.settings import TEXT
from training.words import COLORS, NOUNS

START, END = "<|startoftext|>", "<|endoftext|>"
OLD = 64  # nouns whose tokens come before the start and the end token
WORDS = ("a", "an", "on", "background", *COLORS, *NOUNS)


def _pieces(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """The tokens of a word: the pair of lowest rank is merged until none is left."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        at = list(pairwise(pieces)).index(best)
        pieces[at : at + 2] = ["".join(best)]


def merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        while len(pieces := _pieces(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def tokenizer() -> CLIPTokenizer:
    """The tokenizer: pads with the end token to 16 tokens."""
    symbols = list(bytes_to_unicode().values())
    rules = merges(WORDS)
    words = ["".join(rule) for rule in rules]
    old = len(merges(WORDS[: len(WORDS) - len(NOUNS) + OLD]))
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *words[:old], START, END, *words[old:]]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=rules, model_max_length=TEXT.length)


def tokens(texts: list[str], words: CLIPTokenizer) -> Tensor:
    """Token ids (N, 16)."""
    return words(texts, padding="max_length", truncation=True, max_length=TEXT.length, return_tensors="pt").input_ids


def settings(words: CLIPTokenizer, width: int, layers: int, heads: int, projection: int) -> CLIPTextConfig:
    """The configuration of a text encoder that fits the tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=TEXT.length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder of the pipeline."""
    torch.manual_seed(2)
    return CLIPTextModel(settings(words, TEXT.width, TEXT.layers, TEXT.heads, TEXT.width))
