"""Rewards of transformers' newer models: built small in the published format, next to a computation of their own."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BitImageProcessorPil,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from noiseward import ModelError, RewardError, stickers
from noiseward.images import to_images
from noiseward.rewards.parse import make_reward, parse_rewards
from noiseward.rewards.vqa import ASKED, IMAGE, Patches
from tests.checkpoints import make_images, qwen_tokenizer

PROMPTS = ["a duck", "a heart on a red background", "a duck"]
SIDE = 32


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer")
    layers = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {**layers, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**layers, "image_size": SIDE, "patch_size": 8}))
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8, layerscale_value=0.7
    )
    model = Dinov2Model(config)
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.3)
    model.save_pretrained(folder)
    processor = BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    (image,) = to_images(make_images(1, 40, 30))
    image.save(folder / "reference.png")
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    vocabulary = tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
        },
        image_token_id=vocabulary[IMAGE], video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"], vision_end_token_id=vocabulary["<|vision_end|>"],
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def zoo(siglip, dino, qwen):
    return {
        "clip": make_reward(f"clip:model={siglip}"),
        "similarity": make_reward(f"similarity:path={dino}/reference.png,model={dino}"),
        "vqa": parse_rewards([f"vqa:model={qwen},dtype=float32"]),
    }


NAMES = ("clip", "similarity", "vqa")


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_scored_alone_and_again(zoo, name):
    sample, reward = make_images(), zoo[name]
    scores = reward(sample, PROMPTS)
    assert scores.shape == (3,) and scores.unique().numel() == 3 and torch.equal(reward(sample, PROMPTS), scores)
    alone = torch.cat([reward(sample[row : row + 1], PROMPTS[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(zoo, name):
    reward, sample = zoo[name], (0.05 + 0.9 * make_images(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(sample, PROMPTS[:1]).sum(), sample)
    direction, h = gradient / gradient.norm(), 0.01
    up, down = (reward((sample + sign * h * direction).detach(), PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.03)


def levels(sample: Tensor) -> list[Image.Image]:
    return to_images(sample)


def attend(state: dict[str, Tensor], prefix: str, x: Tensor, names: tuple[str, str, str, str], heads: int) -> Tensor:
    """Self-attention written out on a checkpoint's own names."""
    q, k, v = (F.linear(x, state[f"{prefix}{n}.weight"], state[f"{prefix}{n}.bias"]) for n in names[:3])
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    return F.linear(mixed, state[f"{prefix}{names[3]}.weight"], state[f"{prefix}{names[3]}.bias"])


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def test_siglip_is_its_forward_pass_written_out(zoo, siglip):
    state = {name: part.detach() for name, part in SiglipModel.from_pretrained(siglip).state_dict().items()}
    tokenizer, names = CLIPTokenizer.from_pretrained(siglip), ("q_proj", "k_proj", "v_proj", "out_proj")

    def layers(x: Tensor, prefix: str) -> Tensor:
        for k in range(2):
            here = f"{prefix}encoder.layers.{k}."
            x = x + attend(state, f"{here}self_attn.", norm(state, f"{here}layer_norm1", x), names, 4)
            inner = F.gelu(linear(state, f"{here}mlp.fc1", norm(state, f"{here}layer_norm2", x)), approximate="tanh")
            x = x + linear(state, f"{here}mlp.fc2", inner)
        return x

    pixels = SiglipImageProcessorPil.from_pretrained(siglip)(levels(make_images()), return_tensors="pt").pixel_values
    v = "vision_model."
    kernel, bias = (state[f"{v}embeddings.patch_embedding.{kind}"] for kind in ("weight", "bias"))
    x = F.conv2d(pixels, kernel, bias, stride=8).flatten(2).transpose(1, 2)
    x = norm(state, f"{v}post_layernorm", layers(x + state[f"{v}embeddings.position_embedding.weight"], v))
    probe = state[f"{v}head.probe"].expand(3, -1, -1)
    weight, bias = (
        state[f"{v}head.attention.in_proj_weight"].chunk(3),
        state[f"{v}head.attention.in_proj_bias"].chunk(3),
    )
    q, k, w = (F.linear(part, *pair).unflatten(-1, (4, -1)).transpose(1, 2)
               for part, pair in zip((probe, x, x), zip(weight, bias, strict=True), strict=True))  # fmt: skip
    pooled = ((q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ w).transpose(1, 2).flatten(2)
    pooled = linear(state, f"{v}head.attention.out_proj", pooled)
    inner = F.gelu(linear(state, f"{v}head.mlp.fc1", norm(state, f"{v}head.layernorm", pooled)), approximate="tanh")
    images = F.normalize((pooled + linear(state, f"{v}head.mlp.fc2", inner))[:, 0], dim=1)
    ids = tokenizer(PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    t = "text_model."
    y = state[f"{t}embeddings.token_embedding.weight"][ids] + state[f"{t}embeddings.position_embedding.weight"]
    texts = F.normalize(linear(state, f"{t}head", norm(state, f"{t}final_layer_norm", layers(y, t))[:, -1]), dim=1)
    torch.testing.assert_close(zoo["clip"](make_images(), PROMPTS), (images * texts).sum(1), rtol=0, atol=0.01)


def test_dino_is_its_forward_pass_written_out(zoo, dino):
    model = Dinov2Model.from_pretrained(dino)
    state = {name: part.detach() for name, part in model.state_dict().items()}
    names = ("q_proj", "k_proj", "v_proj", "o_proj")

    def vectors(sample: Tensor) -> Tensor:
        pixels = BitImageProcessorPil.from_pretrained(dino)(levels(sample), return_tensors="pt").pixel_values
        kernel, bias = (state[f"embeddings.patch_embeddings.projection.{kind}"] for kind in ("weight", "bias"))
        x = F.conv2d(pixels, kernel, bias, stride=8).flatten(2).transpose(1, 2)
        x = torch.cat([state["embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
        x = x + state["embeddings.position_embeddings"]
        for k in range(2):
            here = f"encoder.layer.{k}."
            mixed = attend(state, f"{here}attention.", norm(state, f"{here}norm1", x), names, 4)
            x = x + state[f"{here}layer_scale1.lambda1"] * mixed
            inner = F.gelu(linear(state, f"{here}mlp.fc1", norm(state, f"{here}norm2", x)))
            x = x + state[f"{here}layer_scale2.lambda1"] * linear(state, f"{here}mlp.fc2", inner)
        return F.normalize(norm(state, "layernorm", x)[:, 0], dim=1)

    expected = vectors(make_images()) @ vectors(make_images(1, 40, 30))[0]
    torch.testing.assert_close(zoo["similarity"](make_images(), None), expected, rtol=0, atol=0.02)
    assert zoo["similarity"](make_images(1, 40, 30), None).item() == pytest.approx(1, abs=1e-5)


def test_vqa_is_the_probability_of_transformers_with_the_official_processor(zoo, qwen):
    model, processor = (
        Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen).eval(),
        Qwen2VLImageProcessorPil.from_pretrained(qwen),
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(qwen)
    sample = make_images(3, 90, 120)
    for row, (text, image) in enumerate(zip(PROMPTS, levels(sample), strict=True)):
        seen = processor(image, return_tensors="pt")
        places = seen.image_grid_thw.prod().item() // 4
        question = f'Does this figure show "{text}"? Please answer yes or no.'
        words = tokenizer(ASKED.format(image=IMAGE * places, question=question), return_tensors="pt")
        kinds = (words.input_ids == model.config.image_token_id).int()
        given = {"input_ids": words.input_ids, "attention_mask": words.attention_mask, "mm_token_type_ids": kinds}
        with torch.no_grad():
            logits = model(**given, pixel_values=seen.pixel_values, image_grid_thw=seen.image_grid_thw).logits[0, -1]
        expected = logits.softmax(0)[tokenizer.convert_tokens_to_ids("Yes")].item()
        found = zoo["vqa"](sample[row : row + 1], [text]).item()
        assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("size", [(56, 56), (90, 120), (30, 200), (400, 300), (20, 20)])
def test_patches_are_those_of_the_official_processor(qwen, size):
    processor = Qwen2VLImageProcessorPil.from_pretrained(qwen)
    sample = make_images(2, *size)
    seen = processor(levels(sample), return_tensors="pt")
    patches, grid = Patches(json.loads((qwen / "preprocessor_config.json").read_text()))(sample)
    assert torch.equal(grid, seen.image_grid_thw) and patches.shape == seen.pixel_values.shape
    far = (patches - seen.pixel_values).abs() * 0.27  # back to pixels, 0 to 1
    assert far.max() < 6 / 255 and far.mean() < 0.6 / 255


def test_other_models_and_missing_prompts_are_refused(zoo, dino):
    with pytest.raises(RewardError, match="reward 'vqa' compares images with prompts"):
        zoo["vqa"](make_images(), None)
    with pytest.raises(ModelError, match="cannot be loaded as a Qwen-VL"):
        make_reward(f"vqa:model={dino}")
    with pytest.raises(ModelError, match="cannot be loaded as a CLIP model|does not fit"):
        make_reward(f"clip:model={dino}")
