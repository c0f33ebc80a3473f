"""Named rewards against hand computations, and rewards from a user's file."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from noiseward import ArgumentError, FunctionReward, RewardError
from noiseward.rewards.catalog import ENTRIES
from noiseward.rewards.parse import make_reward, parse_rewards
from noiseward.rewards.reward import score
from noiseward.rewards.shaping import Augmented


def make_images(rows: int = 3) -> torch.Tensor:
    return torch.rand(rows, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


PIXELS = {name: entry for name, entry in ENTRIES.items() if ".pixels:" in entry.maker}


def test_brightness_is_the_mean_pixel_and_darkness_the_rest():
    sample = make_images()
    torch.testing.assert_close(make_reward("brightness")(sample, None), torch.stack([row.mean() for row in sample]))
    torch.testing.assert_close(make_reward("darkness")(sample, None), 1 - make_reward("brightness")(sample, None))


def test_contrast_is_the_deviation_of_the_luminance():
    sample = make_images()
    luminance = 0.299 * sample[:, 0] + 0.587 * sample[:, 1] + 0.114 * sample[:, 2]
    by_hand = torch.stack([((row - row.mean()) ** 2).mean().sqrt() for row in luminance])
    torch.testing.assert_close(make_reward("contrast")(sample, None), by_hand)


def test_contrast_of_one_color_is_zero_with_a_finite_gradient():
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    contrast = make_reward("contrast")(flat, None)
    (gradient,) = torch.autograd.grad(contrast.sum(), flat)
    assert contrast.item() == 0
    assert (gradient == 0).all()


def test_saturation_is_the_spread_of_the_channels():
    sample = make_images()
    by_hand = [(row.max(0).values - row.min(0).values).mean() for row in sample]
    torch.testing.assert_close(make_reward("saturation")(sample, None), torch.stack(by_hand))


def test_colorfulness_is_the_published_formula():
    levels = 255 * make_images()
    red, green, blue = levels.unbind(1)
    one, two = (red - green).flatten(1).numpy(), (0.5 * (red + green) - blue).flatten(1).numpy()
    by_hand = (one.var(1) + two.var(1)) ** 0.5 + 0.3 * (one.mean(1) ** 2 + two.mean(1) ** 2) ** 0.5
    torch.testing.assert_close(255 * make_reward("colorfulness")(levels / 255, None), torch.from_numpy(by_hand))


def test_sharpness_is_one_for_a_checkerboard_and_half_for_one_of_twice_the_size():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    coarse = board[:4, :4].repeat_interleave(2, 0).repeat_interleave(2, 1)
    fine, wide = (make_reward("sharpness")(one.float().expand(1, 3, -1, -1), None).item() for one in (board, coarse))
    assert fine == pytest.approx(1) and wide == pytest.approx((3 / 7) ** 0.5)


def test_symmetry_is_zero_for_a_mirrored_image_and_least_for_black_next_to_white():
    half = make_images(1)
    halves = torch.zeros(1, 3, 4, 6)
    halves[..., 3:] = 1
    assert make_reward("symmetry")(torch.cat([half, half.flip(3)], 3), None).item() == 0
    assert make_reward("symmetry")(halves, None).item() == -1


@pytest.mark.parametrize("name", ["saturation", "colorfulness", "sharpness", "symmetry"])
def test_a_image_of_one_color_has_finite_gradients(name):
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(make_reward(name)(flat, None).sum(), flat)
    assert gradient.isfinite().all()


def test_jpeg_is_the_negative_size_of_the_file_pil_writes():
    sample = make_images().float()
    sizes = make_reward("jpeg")(sample, None)
    for row, size in zip(sample, sizes, strict=True):
        file = io.BytesIO()
        levels = (row.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(levels).save(file, format="JPEG", quality=95)
        assert size.item() == pytest.approx(-len(file.getvalue()) / 1000)


@pytest.mark.parametrize("name", [name for name, entry in PIXELS.items() if entry.differentiable])
def test_declared_gradients_agree_with_finite_differences(name):
    assert torch.autograd.gradcheck(lambda x: make_reward(name)(x, None), make_images(2).requires_grad_())


@pytest.mark.parametrize("name", PIXELS)
def test_entries_keep_what_they_declare(name):
    reward, sample = make_reward(name), make_images().float().requires_grad_()
    total, terms = score(reward, sample, None)
    assert (reward.name, reward.differentiable) == (name, ENTRIES[name].differentiable)
    assert total.requires_grad == ENTRIES[name].differentiable
    assert list(terms) == [name]


@pytest.mark.parametrize("name", PIXELS)
def test_rows_are_scored_alone(name):
    sample = make_images(4).float()
    alone = torch.cat([make_reward(name)(sample[row : row + 1], None) for row in range(4)])
    torch.testing.assert_close(make_reward(name)(sample, None), alone)


@pytest.mark.parametrize("name", PIXELS)
def test_what_is_no_image_is_refused(name):
    with pytest.raises(RewardError, match=r"expected images \(B, 3, H, W\)"):
        score(make_reward(name), torch.zeros(2, 4, 8, 8), None)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (torch.zeros(1, 1, 8, 8), "repeat the one channel"),
        (torch.zeros(1, 4, 8, 8), "drop the alpha channel"),
        (torch.linspace(-1, 1, 192).view(1, 3, 8, 8), r"from -1 to 1; .*\(x \+ 1\) / 2"),
        (torch.full((1, 3, 8, 8), 255.0), "from 255 to 255; divide by 255"),
    ],
)
@pytest.mark.parametrize("name", PIXELS)
def test_images_with_other_channels_or_in_another_range_are_refused_with_the_cure(name, sample, says):
    with pytest.raises(RewardError, match=says) as caught:
        score(make_reward(name), sample, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PIXELS)
def test_values_beyond_the_range_count_as_the_clipped_image(name):
    sample = make_images().float() * 1.6 - 0.3
    assert sample.min() < -0.1 and sample.max() > 1.1
    assert torch.equal(make_reward(name)(sample, None), make_reward(name)(sample.clamp(0, 1), None))


def test_arguments_that_any_reward_takes():
    sample = make_images().float()
    bright = make_reward("brightness")(sample, None)
    total, terms = score(
        parse_rewards(["brightness:clamp=0.5,weight=2,name=light", "brightness:-1,cutouts=3"]), sample, None
    )
    torch.testing.assert_close(terms["light"], bright.clamp(max=0.5))
    crops = Augmented(make_reward("brightness"), cutouts=3)(sample, None)
    torch.testing.assert_close(total, 2 * terms["light"] - crops)
    leaf = sample.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(parse_rewards(["contrast:unit=true"])(leaf, None).sum(), leaf)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), torch.ones(3))


def test_several_rewards_are_weighted_and_reported():
    sample = make_images().float()
    total, terms = score(parse_rewards(["brightness", "jpeg:0.01", "contrast:-2"]), sample, None)
    by_hand = terms["brightness"] + 0.01 * terms["jpeg"] - 2 * terms["contrast"]
    torch.testing.assert_close(total, by_hand)


def test_a_reward_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def redness(images):\n    return images[:, 0].mean((1, 2))\n")
    reward = parse_rewards([f"{file}:redness"])
    assert reward.name == "redness"
    torch.testing.assert_close(reward(make_images(), None), make_images()[:, 0].mean((1, 2)))
    assert parse_rewards([f"{file}:redness:0.5"]).name == "0.5 redness"


def test_a_file_may_declare_a_black_box(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from noiseward import FunctionReward\n"
        "def count(images, prompt):\n    return [float(len(text)) for text in prompt]\n"
        "length = FunctionReward(count, differentiable=False, name='length')\n"
    )
    reward = parse_rewards([f"{file}:length"])
    assert not reward.differentiable
    assert score(reward, make_images(2), ["a", "abc"])[0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brightnes", "did you mean 'brightness'"),
        ("brightness:much", "the weight of reward 'brightness:much' must be a number, as in 'jpeg:0.5', got 'much'"),
        ("brightness:nan", "the weight of reward 'brightness:nan' must be a number"),
        ("brightness:weight=1,weight=2", "gives 'weight' twice"),
        ("brightness:clamp=high", "clamp of reward 'brightness:clamp=high' must be a number, got 'high'"),
        ("brightness:unit=yes", "must be true or false, got 'yes'"),
        ("brightness:cutouts=0", "cutouts must be >= 1, got 0"),
        ("jpeg:unit=true", "'jpeg' has no gradient to normalize"),
        ("brightness:color=red", "reward 'brightness' has no argument 'color'; it takes none"),
        ("hpsv2:version=3", "unknown version '3' of reward 'hpsv2'; available: 2.0, 2.1"),
        ("hpsv2:verson=2.0", "has no argument 'verson'; did you mean 'version'"),
        ("nowhere.py:f", "nowhere.py is no file"),
    ],
)
def test_bad_names_are_one_line(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        parse_rewards([text])
    assert "\n" not in str(caught.value)


def test_a_function_in_a_file_takes_what_any_reward_takes(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def redness(images):\n    return images[:, 0].mean((1, 2))\n")
    images = torch.full((2, 3, 8, 8), 0.5)
    assert parse_rewards([f"{file}:redness:0.5"])(images, None).tolist() == [0.25, 0.25]
    clamped = parse_rewards([f"{file}:redness:clamp=0.2,weight=2,name=red"])
    assert clamped.name == "2 red" and torch.allclose(clamped(images, None), torch.tensor([0.4, 0.4]))


def test_a_file_without_that_function_or_that_fails_is_one_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def redness(images):\n    return images\n")
    with pytest.raises(ArgumentError, match="has no 'rednes'; did you mean 'redness'"):
        parse_rewards([f"{file}:rednes"])
    with pytest.raises(ArgumentError, match="redness takes a weight, .* and name, got 'size=3'; leave that out"):
        parse_rewards([f"{file}:redness:size=3"])
    file.write_text("import no_such_package\n")
    with pytest.raises(RewardError, match="raised ModuleNotFoundError when it was run"):
        parse_rewards([f"{file}:redness"])


class EntryPoint:
    """An entry point of another package, as importlib.metadata gives it."""

    dist, value = None, "elsewhere:make"

    def __init__(self, name, make):
        self.name, self.make = name, make

    def load(self):
        if self.make is None:
            raise ImportError("no module named elsewhere")
        return self.make


def redness(power: float = 1.0):
    return FunctionReward(lambda images: images[:, 0].mean((1, 2)) ** power, name="redness")


def test_other_packages_add_rewards_by_being_installed(monkeypatch):
    offers = [
        EntryPoint("redness", redness),
        EntryPoint("brightness", None),
        EntryPoint("broken", None),
        EntryPoint("no", lambda: 3),
    ]
    monkeypatch.setattr("noiseward.rewards.catalog.entry_points", lambda group: offers)
    sample = make_images().float()
    total, terms = score(parse_rewards(["redness:power=2,weight=3", "brightness"]), sample, None)
    torch.testing.assert_close(terms["redness"], sample[:, 0].mean((1, 2)) ** 2)
    torch.testing.assert_close(total, 3 * terms["redness"] + sample.mean((1, 2, 3)))  # ours keeps its name
    with pytest.raises(ArgumentError, match="did you mean 'redness'"):
        parse_rewards(["rednes"])
    with pytest.raises(RewardError, match="reward 'broken' of elsewhere:make raised ImportError on import"):
        parse_rewards(["broken"])
    with pytest.raises(RewardError, match="reward 'no': expected its package to make a Reward, got a int"):
        parse_rewards(["no"])
