"""CLIP as a reward: equal to transformers' own computation, differentiable, row by row; and its preprocessing."""

from __future__ import annotations

import warnings

import numpy
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from noiseward import ModelError, NoisewardWarning, RewardError, stickers
from noiseward.rewards.dual_encoder import DualEncoder, judge
from noiseward.rewards.preprocess import Preprocess


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with random weights, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer")
    layers = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    words = {
        **layers, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=words, vision_config={**layers, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    where = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def clip(folder):
    return DualEncoder.load(folder, name="clip")


def make_images(rows=3, height=48, width=64):
    """Smooth images with 8-bit levels, as a decoder gives them."""
    coarse = torch.rand(rows, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


PROMPTS = ["a duck", "a heart on a red background", "a duck"]


def test_scores_are_those_of_transformers(clip, folder):
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    sample = make_images()
    levels = [Image.fromarray((row.permute(1, 2, 0) * 255).byte().numpy()) for row in sample]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(levels, return_tensors="pt").pixel_values
    words = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(pixel_values=pixels, **words)
    expected = (found.logits_per_image / model.logit_scale.exp()).diagonal()
    torch.testing.assert_close(clip(sample, PROMPTS), expected, rtol=0, atol=2e-3)  # they round to 8 bits in between
    exact = model.get_image_features(pixel_values=clip.preprocess(sample)).pooler_output
    torch.testing.assert_close(clip.encode_images(sample), exact / exact.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (32, 32), (33, 70), (20, 20)])
@pytest.mark.parametrize("square", [False, True])
def test_preprocessing_is_the_official_one_up_to_its_rounding(height, width, square):
    side = {"height": 24, "width": 24}
    size = side if square else {"shortest_edge": 24}
    official = CLIPImageProcessorPil(size=size, crop_size=side)
    sample = make_images(2, height, width)
    levels = [(row.permute(1, 2, 0) * 255).byte().numpy() for row in sample]
    expected = official([Image.fromarray(numpy.asarray(one)) for one in levels], return_tensors="pt").pixel_values
    found = Preprocess.of(official.to_dict())(sample)
    level = 1 / 255 / min(official.image_std)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 5 * level and (found - expected).abs().mean() < 0.6 * level


def test_the_gradient_agrees_with_finite_differences(clip):
    sample = make_images(1).requires_grad_()
    (gradient,) = torch.autograd.grad(clip(sample, PROMPTS[:1]).sum(), sample)
    direction = gradient / gradient.norm()
    h = 0.05
    up, down = (clip((sample + sign * h * direction).detach().clamp(-1, 2), PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.02)


def test_a_row_has_the_score_it_has_alone(clip):
    sample = make_images()
    alone = torch.cat([clip(sample[row : row + 1], PROMPTS[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(clip(sample, PROMPTS), alone, rtol=0, atol=1e-5)


def test_a_text_is_encoded_once_and_a_scale_scales(folder, monkeypatch):
    clip = DualEncoder.load(folder, name="clip", scale=100.0)
    first = clip(make_images(), PROMPTS)
    monkeypatch.setattr(clip.model, "get_text_features", None)
    assert torch.equal(clip(make_images(), PROMPTS), first)
    torch.testing.assert_close(first, 100 * DualEncoder.load(folder, name="clip")(make_images(), PROMPTS))


def test_nothing_but_the_images_gets_a_gradient(clip):
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    assert not clip.model.training


def test_a_missing_prompt_and_no_images_are_refused_in_one_line(clip):
    with pytest.raises(RewardError, match="reward 'clip' compares images with prompts"):
        clip(make_images(), None)
    with pytest.raises(RewardError, match=r"got samples of shape \(3, 4\)"):
        clip(torch.zeros(3, 4), PROMPTS)


def test_a_folder_that_is_no_clip_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for where in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match="cannot be loaded as a CLIP model") as caught:
            DualEncoder.load(where, name="clip")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"longest_edge": 32}},
        {"size": {"height": 32, "width": 32}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
        {
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
            "resample": 1,
        },
    ],
)
def test_an_image_processor_that_does_something_else_is_refused(config):
    with pytest.raises(ModelError, match="expected an image processor with"):
        Preprocess.of({**config, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def collect_warnings(act) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(one.message) for one in caught if issubclass(one.category, NoisewardWarning)]


def test_a_truncated_prompt_is_reported_once_with_what_is_lost():
    encoder = judge()
    length = encoder.model.config.text_config.max_position_embeddings
    fits, long = "a " * (length - 2), "a " * (length - 2) + "duck"
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert collect_warnings(lambda: encoder(images, [fits, fits])) == []
    first = collect_warnings(lambda: encoder(images, [long, long]))
    assert first == [
        f"reward 'stickers-judge' reads the first {length} tokens of a prompt and does not see 'duck'; shorten it"
    ]
    assert collect_warnings(lambda: encoder(images, [long, fits])) == []


def test_texts_follow_the_model_to_another_device(folder):
    encoder = DualEncoder.load(folder, name="clip")
    assert encoder.encode_texts(["a duck"]).device.type == "cpu"
    encoder.model.to("meta")
    assert encoder.encode_texts(["a duck"]).device.type == "meta"
