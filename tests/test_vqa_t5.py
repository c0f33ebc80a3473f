"""CLIP-FlanT5, built small in its published format, next to transformers' parts and Pillow's preprocessing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from noiseward import ModelError
from noiseward.images import to_images
from noiseward.rewards.catalog import list_repos
from noiseward.rewards.parse import parse_rewards
from noiseward.rewards.preprocess import CLIP_MEAN
from noiseward.rewards.vqa_t5 import BEFORE
from tests.checkpoints import make_images

PROMPTS = ["a duck", "a heart on a red background", "a duck"]
VISION = CLIPVisionConfig(
    hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=14,
    hidden_act="quick_gelu",
)  # fmt: skip
TEXT = {
    "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "[UNK]", "Yes", "No", "a", "duck", "heart", "red", "USER", ":", "ASSISTANT", "show", "?"]
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="<pad>", eos_token="</s>")


def draw(name: str, shape: torch.Size) -> torch.Tensor:
    scale = min(0.3, 1 / math.sqrt(shape[1:].numel()))
    return torch.randn(shape) * scale + ("norm" in name and name.endswith("weight"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as it is published, in two pickles of tensors, and these."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    state = dict(T5ForConditionalGeneration(T5Config(vocab_size=14, **TEXT)).state_dict())
    state |= {
        f"vision_tower.vision_tower.vision_model.{name}": part
        for name, part in CLIPVisionModel(VISION).state_dict().items()
    }
    state |= {"mm_projector.0.weight": torch.empty(32, 64), "mm_projector.0.bias": torch.empty(32)}
    state |= {"mm_projector.2.weight": torch.empty(32, 32), "mm_projector.2.bias": torch.empty(32)}
    state = {name: draw(name, part.shape) for name, part in state.items()}
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight"):
        state[name] = state["shared.weight"]
    files = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(sorted(state))}
    for file in set(files.values()):
        torch.save({name: state[name] for name in files if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    config = {**TEXT, "vocab_size": 17, "model_type": "clip_t5", "mm_vision_select_layer": -2, "mm_hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    word_tokenizer().save_pretrained(folder)
    return folder, state


@pytest.fixture(scope="module")
def reward(folder):
    return parse_rewards([f"vqa:model={folder[0]},dtype=float32"])


def pad(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(part * 255) for part in CLIP_MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def test_the_score_is_that_of_its_parts_with_pillows_preprocessing(folder, reward):
    _, state = folder
    vision, text = CLIPVisionModel(VISION).eval(), T5ForConditionalGeneration(T5Config(vocab_size=14, **TEXT)).eval()
    head = "vision_tower.vision_tower.vision_model."
    vision.load_state_dict({name.removeprefix(head): part for name, part in state.items() if name.startswith(head)})
    text.load_state_dict({name: part for name, part in state.items() if name in text.state_dict()})
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    tokenizer, sample, expected = word_tokenizer(), make_images(), []
    for prompt, image in zip(PROMPTS, to_images(sample), strict=True):
        pixels = processor(pad(image), return_tensors="pt").pixel_values
        asked = f'\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT: '
        first, second = (torch.tensor(tokenizer(part).input_ids) for part in (BEFORE, asked))
        assert first[-1] == second[-1] == 1
        with torch.no_grad():
            x = vision(pixels, output_hidden_states=True).hidden_states[1][0, 1:]
            x = F.gelu(F.linear(x, state["mm_projector.0.weight"], state["mm_projector.0.bias"]))
            x = F.linear(x, state["mm_projector.2.weight"], state["mm_projector.2.bias"])
            words = state["shared.weight"]
            read = text.encoder(inputs_embeds=torch.cat([words[first], x, words[second]])[None]).last_hidden_state
            y = text.decoder(inputs_embeds=words[[0, 3]][None], encoder_hidden_states=read).last_hidden_state[0]
        share = F.linear(y, state["lm_head.weight"]).softmax(1)  # a table of its own, not that of the words
        expected.append((share[0, 3] * share[1, 1]).sqrt())
    found = reward(sample, PROMPTS)
    assert found.unique().numel() == 3
    torch.testing.assert_close(found, torch.stack(expected), rtol=0.03, atol=1e-4)


def test_rows_are_scored_alone_and_the_gradient_agrees_with_finite_differences(reward):
    sample = (0.05 + 0.9 * make_images(2)).requires_grad_()
    scores = reward(sample, PROMPTS[:2])
    torch.testing.assert_close(scores[1:], reward(sample[1:], PROMPTS[1:2]), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(scores[0], sample)
    assert not gradient[1].any()
    direction, h = gradient / gradient.norm(), 0.01
    up, down = (reward((sample + sign * h * direction).detach()[:1], PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


def test_a_clip_of_its_own_folder_does_for_weights_without_one(folder, reward, tmp_path):
    place, state = folder
    head = "vision_tower.vision_tower.vision_model."
    save_file(
        {name: part.clone() for name, part in state.items() if not name.startswith(head)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text((place / "config.json").read_text())
    own = tmp_path / "clip"
    own.mkdir()
    (own / "config.json").write_text("{}")
    torch.save(
        {
            name.removeprefix("vision_tower.vision_tower."): part
            for name, part in state.items()
            if name.startswith(head)
        },
        own / "pytorch_model.bin",
    )
    text = f"vqa:model={tmp_path},dtype=float32,tokenizer={place}"
    sample = make_images(1)
    torch.testing.assert_close(
        parse_rewards([f"{text},vision={own}"])(sample, PROMPTS[:1]), reward(sample, PROMPTS[:1])
    )
    with pytest.raises(
        ModelError, match="reward 'vqa' needs config.json and pytorch_model.bin of openai/clip-vit-large"
    ):
        parse_rewards([text])
    ids = [repo.id for repo in list_repos("vqa:model=zhiqiulin/clip-flant5-xl")]
    assert ids == ["zhiqiulin/clip-flant5-xl", "google/flan-t5-xl", "openai/clip-vit-large-patch14-336"]
    (tmp_path / "config.json").write_text(json.dumps({**TEXT, "model_type": "clip_t5", "mm_vision_select_layer": -1}))
    with pytest.raises(ModelError, match="takes 'patch' of layer -1 of its CLIP; expected 'patch' of layer -2"):
        parse_rewards([text])
