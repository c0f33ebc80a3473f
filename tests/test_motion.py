"""Rewards of videos and sound against closed forms, their gradients, and a run with each."""

import math

import pytest
import torch

from noiseward import FunctionSampler, RewardError, align
from noiseward.rewards.catalog import ENTRIES
from noiseward.rewards.parse import make_reward
from noiseward.rewards.reward import score

VIDEO = [name for name, entry in ENTRIES.items() if entry.kind == "video"]
PLAIN = [*VIDEO, "loudness"]


def fade(levels: list[float]) -> torch.Tensor:
    """A video whose frames have one level each."""
    return torch.tensor(levels, dtype=torch.float64)[None, :, None, None, None].expand(1, len(levels), 3, 4, 5)


def sample(name: str, rows: int = 3) -> torch.Tensor:
    shape = (rows, 4, 3, 3, 2) if name in VIDEO else (rows, 2, 9)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn if name in VIDEO else 2 * drawn - 1


def test_motion_is_the_root_mean_square_of_first_differences():
    assert make_reward("motion")(fade([0.2, 0.5, 0.9]), None).item() == pytest.approx(math.sqrt((0.09 + 0.16) / 2))


def test_motion_smoothness_is_the_negative_mean_square_of_second_differences():
    levels = [0.1, 0.4, 0.2, 0.9]
    second = [levels[k] - 2 * levels[k + 1] + levels[k + 2] for k in (0, 1)]
    expected = -sum(one**2 for one in second) / 2
    assert make_reward("motion-smoothness")(fade(levels), None).item() == pytest.approx(expected)


def test_a_steady_fade_moves_and_is_smooth_and_a_blink_is_the_least_smooth():
    steady, blink = fade([0.0, 0.25, 0.5, 0.75]), fade([0, 1, 0, 1])
    assert make_reward("motion")(steady, None).item() == pytest.approx(0.25)
    assert make_reward("motion-smoothness")(steady, None).item() == pytest.approx(0, abs=1e-15)
    assert make_reward("motion-smoothness")(blink, None).item() == -4


def test_loudness_is_the_level_in_decibels():
    time = torch.arange(8000, dtype=torch.float64) / 8000
    sine = torch.sin(2 * torch.pi * 50 * time)
    levels = [make_reward("loudness")(wave[None], None).item() for wave in (sine.sign(), sine, sine / 10, 0 * sine)]
    assert levels == pytest.approx([0, -10 * math.log10(2), -20 - 10 * math.log10(2), -100], abs=0.03)


def test_loudness_averages_channels():
    left = torch.ones(1, 1, 10)
    assert make_reward("loudness")(torch.cat([left, 0 * left], 1), None).item() == pytest.approx(10 * math.log10(0.5))


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_agree_with_finite_differences(name):
    assert torch.autograd.gradcheck(lambda x: make_reward(name)(x, None), sample(name, 2).requires_grad_())


@pytest.mark.parametrize("name", PLAIN)
def test_what_stands_still_has_a_gradient_of_zero(name):
    still = (fade([0.3] * 4) if name in VIDEO else torch.zeros(1, 2, 9)).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(make_reward(name)(still, None).sum(), still)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_rows_are_scored_alone_and_entries_keep_what_they_declare(name):
    reward, rows = make_reward(name), sample(name)
    torch.testing.assert_close(reward(rows, None), torch.cat([reward(row[None], None) for row in rows]))
    _, terms = score(reward, rows, None)
    assert list(terms) == [name] and reward.differentiable == ENTRIES[name].differentiable and reward.statistic


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("motion", (1, 3, 8, 8), r"expected video \(B, frames, 3, H, W\) with frames >= 2, .*; images have no motion"),
        ("motion", (1, 1, 3, 8, 8), "with frames >= 2"),
        ("motion-smoothness", (1, 2, 3, 8, 8), "with frames >= 3"),
        ("motion", (1, 4, 1, 8, 8), "expected video"),
        ("loudness", (1, 4, 3, 8, 8), "expected sound"),
        ("brightness", (1, 4, 3, 8, 8), "expected images"),
    ],
)
def test_other_samples_are_refused_in_one_line(name, shape, says):
    with pytest.raises(RewardError, match=says):
        make_reward(name)(torch.zeros(shape), None)


def test_frames_out_of_range_are_refused_with_the_cure():
    with pytest.raises(RewardError, match="divide by 255"):
        make_reward("motion")(torch.full((1, 3, 3, 2, 2), 200.0), None)


def walk(batch: int) -> torch.Tensor:
    """A video of six frames: each is the one before and some noise."""
    steps = torch.randn(batch, 6, 3, 4, 4)
    return torch.sigmoid(0.5 * steps.cumsum(1))


def test_videos_become_smoother_and_move_more_and_sound_louder():
    call = {"steps": 20, "seed": 1, "method": "dno:lr=0.05", "progress": False}
    smooth = align(FunctionSampler(walk), "", "motion-smoothness", **call)
    lively = align(FunctionSampler(walk), "", "motion", **call)
    loud = align(FunctionSampler(lambda batch: torch.randn(batch, 1, 64).tanh()), "", "loudness", **call)
    for found in (smooth, lively, loud):
        assert found.reward.item() > found.initial.reward.item()
    motion = make_reward("motion")
    assert motion(smooth.sample, None) < motion(lively.sample, None)
