"""The built-in model's weights, as they are shipped: a plain diffusers folder, its judge, and what it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import ImageFont

import noiseward
from noiseward import stickers
from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.rewards.dual_encoder import DualEncoder
from training.words import caption

DRAWN = {"num_inference_steps": 20, "eta": 1.0, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(stickers.path(), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, captions: list[str], seed: int = 0) -> torch.Tensor:
    """Images in [0, 1], row `i` with seed `seed + i`, by diffusers alone."""
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(captions))]
    return pipe(captions, generator=generators, output_type="pt", **DRAWN).images


def test_the_folder_goes_through_diffusers_and_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe, ["a duck"]), draw(again, ["a duck"]))


def test_every_part_is_float32_and_nothing_is_pickled():
    files = [path for path in Path(stickers.path()).parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt", ".py", ".pyc", ""}
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 40e6


def test_optimization_starts_at_the_stock_pipelines_image(pipe):
    captions = ["a duck", "an owl on a red background"]
    sampler = DiffusersSampler(pipe, **DRAWN)
    with torch.no_grad():
        ours = sampler(sampler.init(2, seed=4), captions)
    assert torch.equal(ours, draw(pipe, captions, seed=4))


def test_golden_captions_keep_their_noun_and_their_background(pipe):
    expected = [(noun, color) for noun, color in zip(stickers.nouns()[:8], stickers.colors(), strict=False)]
    images = draw(pipe, [caption(noun, color) for noun, color in expected])
    judge = DualEncoder.load(stickers.path("judge"), name="judge")
    with torch.no_grad():
        seen = judge.encode_images(images)
        nouns = (seen @ judge.encode_texts([f"a {noun}" for noun in stickers.nouns()]).T).argmax(1)
        backgrounds = [[f"a {noun} on a {color} background" for color in stickers.colors()] for noun, _ in expected]
        colors = [
            (row @ judge.encode_texts(texts).T).argmax().item() for row, texts in zip(seen, backgrounds, strict=True)
        ]
    right = [stickers.nouns()[n] == noun for n, (noun, _) in zip(nouns.tolist(), expected, strict=True)]
    assert sum(right) >= 6, right  # of 8, among all nouns; by chance one in 64
    assert [stickers.colors()[n] for n in colors] == [color for _, color in expected]


def test_brightness_rises_in_a_few_steps_without_the_font(monkeypatch):
    def forbid(*arguments, **options):
        raise AssertionError("the built-in model opened a font")

    monkeypatch.setattr(ImageFont, "truetype", forbid)
    solution = noiseward.align("stickers", "a duck", "brightness", steps=3, seed=0, num_inference_steps=8)
    assert solution.reward.item() > solution.initial.reward.item() + 0.02


def test_the_judge_knows_a_noun_from_another_where_the_reward_does_too(pipe):
    """Both CLIPs rank the right caption first; they are two models, not one twice."""
    image = draw(pipe, ["a heart on a white background"])
    texts = ["a heart on a white background", "a duck on a white background", "a heart on a black background"]
    scores = {}
    for name in ("clip", "judge"):
        model = DualEncoder.load(stickers.path(name), name=name)
        with torch.no_grad():
            scores[name] = (model.encode_images(image) @ model.encode_texts(texts).T)[0]
        assert scores[name].argmax() == 0
    assert not torch.allclose(scores["clip"], scores["judge"], atol=1e-3)
