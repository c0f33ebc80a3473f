"""Named rewards against hand computations, and rewards from a user's file."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from noiseward import ArgumentError, RewardError
from noiseward.reward import score
from noiseward.rewards import ENTRIES, named, parse


def pictures(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_brightness_is_the_mean_pixel_and_darkness_the_rest():
    sample = pictures()
    torch.testing.assert_close(named("brightness")(sample, None), torch.stack([row.mean() for row in sample]))
    torch.testing.assert_close(named("darkness")(sample, None), 1 - named("brightness")(sample, None))


def test_contrast_is_the_deviation_of_the_luminance():
    sample = pictures()
    luminance = 0.299 * sample[:, 0] + 0.587 * sample[:, 1] + 0.114 * sample[:, 2]
    by_hand = torch.stack([((row - row.mean()) ** 2).mean().sqrt() for row in luminance])
    torch.testing.assert_close(named("contrast")(sample, None), by_hand)


def test_contrast_of_one_color_is_zero_with_a_finite_gradient():
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    contrast = named("contrast")(flat, None)
    (gradient,) = torch.autograd.grad(contrast.sum(), flat)
    assert contrast.item() == 0
    assert (gradient == 0).all()


def test_jpeg_is_the_negative_size_of_the_file_pil_writes():
    sample = pictures().float()
    sizes = named("jpeg")(sample, None)
    for row, size in zip(sample, sizes, strict=True):
        file = io.BytesIO()
        levels = (row.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(levels).save(file, format="JPEG", quality=95)
        assert size.item() == pytest.approx(-len(file.getvalue()) / 1000)


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.differentiable])
def test_declared_gradients_agree_with_finite_differences(name):
    assert torch.autograd.gradcheck(lambda x: named(name)(x, None), pictures(2).requires_grad_())


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_keep_what_they_declare(name):
    reward, sample = named(name), pictures().float().requires_grad_()
    total, terms = score(reward, sample, None)
    assert (reward.name, reward.differentiable) == (name, ENTRIES[name].differentiable)
    assert total.requires_grad == ENTRIES[name].differentiable
    assert list(terms) == [name]


@pytest.mark.parametrize("name", ENTRIES)
def test_rows_are_scored_alone(name):
    sample = pictures(4).float()
    alone = torch.cat([named(name)(sample[row : row + 1], None) for row in range(4)])
    torch.testing.assert_close(named(name)(sample, None), alone)


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_no_picture_is_refused(name):
    with pytest.raises(RewardError, match=r"looks at pictures \(B, 3, H, W\)"):
        score(named(name), torch.zeros(2, 4, 8, 8), None)


def test_several_rewards_are_weighted_and_reported():
    sample = pictures().float()
    total, terms = score(parse(["brightness", "jpeg:0.01", "contrast:-2"]), sample, None)
    by_hand = terms["brightness"] + 0.01 * terms["jpeg"] - 2 * terms["contrast"]
    torch.testing.assert_close(total, by_hand)


def test_a_reward_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def redness(images):\n    return images[:, 0].mean((1, 2))\n")
    reward = parse([f"{file}:redness"])
    assert reward.name == "redness"
    torch.testing.assert_close(reward(pictures(), None), pictures()[:, 0].mean((1, 2)))
    assert parse([f"{file}:redness:0.5"]).name == "0.5 redness"


def test_a_file_may_declare_a_black_box(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from noiseward import FunctionReward\n"
        "def count(images, prompt):\n    return [float(len(text)) for text in prompt]\n"
        "length = FunctionReward(count, differentiable=False, name='length')\n"
    )
    reward = parse([f"{file}:length"])
    assert not reward.differentiable
    assert score(reward, pictures(2), ["a", "abc"])[0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brightnes", "did you mean 'brightness'"),
        ("brightness:much", "'much' in reward 'brightness:much' is no weight"),
        ("nowhere.py:f", "nowhere.py is no file"),
    ],
)
def test_bad_names_are_one_line(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        parse([text])
    assert "\n" not in str(caught.value)


def test_a_file_without_that_function_or_that_fails_is_one_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def redness(images):\n    return images\n")
    with pytest.raises(ArgumentError, match="has no 'rednes': did you mean 'redness'"):
        parse([f"{file}:rednes"])
    file.write_text("import no_such_package\n")
    with pytest.raises(RewardError, match="raised ModuleNotFoundError when it was run"):
        parse([f"{file}:redness"])
