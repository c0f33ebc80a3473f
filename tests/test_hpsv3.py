"""HPSv3, built small in the published format, next to transformers' own Qwen2-VL and its image processor."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from noiseward import ArgumentError, ModelError
from noiseward.images import to_images
from noiseward.rewards.hpsv3 import TOKEN, read_question
from noiseward.rewards.parse import parse_rewards
from noiseward.rewards.vqa import ASKED, IMAGE
from tests.checkpoints import make_images, qwen_tokenizer

PROMPTS = ["a duck", "a heart on a red background"]
QUESTION = "Please answer : {text_prompt} . <|Reward|> no"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint under its published names, and what Qwen2-VL's folder has besides its weights."""
    folder = tmp_path_factory.mktemp("hpsv3")
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    vocabulary = tokenizer.get_vocab()
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(vocabulary) + 9, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2},
        image_token_id=vocabulary[IMAGE], video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"], vision_end_token_id=vocabulary["<|vision_end|>"],
    )  # fmt: skip
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    (folder / "question.txt").write_text(QUESTION)
    config.get_text_config().vocab_size = len(vocabulary) + 1  # the embedding is cut to the tokenizer's length
    model = Qwen2VLForConditionalGeneration(config)
    state = {name: torch.randn(part.shape) * 0.2 for name, part in model.state_dict().items()}
    for number, (rows, columns) in {0: (24, 32), 3: (16, 24), 5: (2, 16)}.items():
        state[f"rm_head.{number}.weight"], state[f"rm_head.{number}.bias"] = (
            torch.randn(rows, columns) / 4,
            torch.ones(rows),
        )
    save_file({rename(name): part for name, part in state.items()}, folder / "HPSv3.safetensors")
    return folder, state, config


def rename(name: str) -> str:
    """A name as transformers had it before 4.52."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


@pytest.fixture(scope="module")
def reward(folder):
    return parse_rewards(
        [f"hpsv3:path={folder[0]},backbone={folder[0]},question={folder[0]}/question.txt,dtype=float32"]
    )


def test_the_score_is_that_of_transformers_with_the_official_processor_and_a_head_by_hand(folder, reward):
    place, state, config = folder
    model = Qwen2VLForConditionalGeneration(config).eval()
    model.load_state_dict({name: part for name, part in state.items() if not name.startswith("rm_head.")})
    processor = Qwen2VLImageProcessorPil(min_pixels=256 * 28 * 28, max_pixels=256 * 28 * 28)
    tokenizer, sample, expected = qwen_tokenizer(), make_images(2, 90, 120), []
    tokenizer.add_tokens([TOKEN], special_tokens=True)
    for text, image in zip(PROMPTS, to_images(sample), strict=True):
        seen = processor(image, return_tensors="pt")
        places = int(seen.image_grid_thw.prod()) // 4
        asked = ASKED.format(image=IMAGE * places, question=QUESTION.replace("{text_prompt}", text))
        ids = tokenizer(asked, return_tensors="pt").input_ids
        with torch.no_grad():
            words = model.get_input_embeddings()(ids)
            patches = model.get_image_features(seen.pixel_values, seen.image_grid_thw).pooler_output
            words[ids == config.image_token_id] = torch.cat(list(patches))
            order = torch.arange(ids.shape[1]).expand(3, 1, -1)
            x = model.model.language_model(inputs_embeds=words, position_ids=order).last_hidden_state
        x = x[0, ids[0].tolist().index(tokenizer.convert_tokens_to_ids(TOKEN))]
        for number in (0, 3, 5):
            x = F.linear(x, state[f"rm_head.{number}.weight"], state[f"rm_head.{number}.bias"])
            x = x.relu() if number < 5 else x
        expected.append(x[0])
    found = reward(sample, PROMPTS)
    assert found.unique().numel() == 2
    torch.testing.assert_close(found, torch.stack(expected), rtol=0.02, atol=0.02)


def test_rows_are_scored_alone_and_the_gradient_agrees_with_finite_differences(reward):
    sample = (0.05 + 0.9 * make_images(2)).requires_grad_()
    scores = reward(sample, PROMPTS)
    torch.testing.assert_close(scores[1:], reward(sample[1:], PROMPTS[1:]), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(scores[0], sample)
    assert not gradient[1].any()
    direction, h = gradient / gradient.norm(), 0.02
    up, down = (reward((sample + sign * h * direction).detach()[:1], PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


def test_names_of_later_versions_fit_too_and_a_wrong_checkpoint_is_named(folder, reward, tmp_path):
    place, state, _ = folder
    text = f"hpsv3:path={tmp_path},backbone={place},question={place}/question.txt,dtype=float32"
    save_file(state, tmp_path / "HPSv3.safetensors")
    sample = make_images(1)
    torch.testing.assert_close(parse_rewards([text])(sample, PROMPTS[:1]), reward(sample, PROMPTS[:1]))
    wrong = {name: part for name, part in state.items() if "layers.1.mlp.up_proj" not in name}
    save_file(wrong | {"more": torch.zeros(1)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(ModelError, match="layers.1.mlp.up_proj.weight' is missing; 'language_model.more' is unknown"):
        parse_rewards([text])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    with pytest.raises(ModelError, match=r"has no preprocessor_config.json: backbone= of reward 'hpsv3'"):
        parse_rewards([text.replace(f"backbone={place}", f"backbone={tmp_path}")])


def test_the_question_is_read_from_the_package_without_running_it(monkeypatch, tmp_path):
    with pytest.raises(ArgumentError, match="pip install --no-deps hpsv3, or give a text file, hpsv3:question=FILE"):
        read_question()
    (tmp_path / "hpsv3" / "dataset").mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("raise SystemExit\n")
    source = 'import nothing\nINSTRUCTION = """Rate {text_prompt}\n"""\nprompt_with_special_token = "by <|Reward|>"\n'
    (tmp_path / "hpsv3" / "dataset" / "data_collator_qwen.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_question() == "Rate {text_prompt}\nby <|Reward|>"
    (tmp_path / "short.txt").write_text("Rate {text_prompt}.")
    with pytest.raises(ArgumentError, match=r"question must have \{text_prompt\} and <\|Reward\|> once each, got"):
        read_question(str(tmp_path / "short.txt"))
    with pytest.raises(ArgumentError, match="question must be a text file, got 'no.txt'"):
        read_question("no.txt")
