"""The words of the recipe, next to those of the model that is shipped."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from noiseward import stickers
from training import language, warm
from training.settings import TEXT
from training.words import COLORS, NOUNS, caption

# Prompts of "simple animals" in Black et al., https://arxiv.org/abs/2305.13301, in the words used here.
ANIMALS = (
    "cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox wolf lizard beetle"
    " ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle frog chicken duck goose bee pig turkey fly"
    " llama camel bat gorilla hedgehog kangaroo"
)


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    return language.tokenizer()


@pytest.fixture(scope="module")
def shipped_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer", local_files_only=True)


def captions(nouns) -> list[str]:
    return ["", *(caption(noun, color) for noun in nouns for color in (None, *COLORS))]


def test_every_noun_is_one_word_one_glyph_and_one_token(words):
    assert len(NOUNS) >= 96 and len(set(NOUNS.values())) == len(NOUNS)
    assert set(ANIMALS.split()) <= set(NOUNS)
    for noun, glyph in NOUNS.items():
        assert noun.isalpha() and noun.islower() and len(glyph) == 1
        assert len(words(noun).input_ids) == 3, noun


def test_shipped_nouns_come_first_and_in_order():
    assert stickers.nouns() == tuple(NOUNS)[: len(stickers.nouns())]
    assert stickers.colors() == tuple(COLORS)


def test_articles():
    with_an = {noun for noun in NOUNS if caption(noun).startswith("an ")}
    assert with_an >= {"ant", "owl", "airplane", "umbrella"} and "unicorn" not in with_an


def test_no_token_of_the_shipped_model_moves(words, shipped_tokenizer):
    old, new = shipped_tokenizer.get_vocab(), words.get_vocab()
    assert all(new[token] == number for token, number in old.items())
    assert sorted(new.values()) == list(range(len(words)))
    texts = captions(stickers.nouns())
    assert torch.equal(language.tokens(texts, words), language.tokens(texts, shipped_tokenizer))


def test_the_tokenizer_survives_its_folder(words, tmp_path):
    words.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(language.tokens(captions(NOUNS), again), language.tokens(captions(NOUNS), words))


@torch.no_grad()
def test_a_text_encoder_that_grows_reads_old_captions_as_before(words):
    old = CLIPTextModel.from_pretrained(stickers.path() / "text_encoder", local_files_only=True)
    grown = language.encoder(words).eval()
    grown.load_state_dict(warm.grow(grown, old.state_dict()))
    ids = language.tokens(captions(stickers.nouns())[::7], words)
    before, after = old.eval()(ids), grown(ids)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert torch.equal(before.pooler_output, after.pooler_output)
    assert ids.shape[1] == TEXT.length


def test_rows_are_added_where_the_vocabulary_grows(words):
    encoder = language.encoder(words)
    whole = encoder.state_dict()
    (name,) = [name for name in whole if name.endswith("token_embedding.weight")]
    fewer = whole | {name: 2 * whole[name][:-10]}
    made = warm.grow(encoder, fewer)[name]
    assert torch.equal(made[:-10], fewer[name]) and torch.equal(made[-10:], whole[name][-10:])
