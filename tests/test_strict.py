"""The strict test: safe on true noise, and sharp where the paper's pooled test is blind."""

from __future__ import annotations

import math

import pytest
import torch

from noiseward import Draw, Layout, probability
from noiseward.noise.typicality import chi_square, normal, strict_probability

LAYOUT = Layout((Draw("start", (4, 16, 16), "start"), *(Draw(f"step {k}", (4, 16, 16)) for k in range(1, 8))))


@pytest.fixture(scope="module")
def fresh() -> torch.Tensor:
    return LAYOUT.draw_noise(range(2000))


def test_true_noise_is_suspected_no_more_often_than_documented(fresh):
    found, _ = strict_probability(fresh, LAYOUT)
    for level in (0.1, 0.01):
        slack = 3 * math.sqrt(level * (1 - level) / len(found))
        assert (found < level).float().mean().item() <= level + slack
    assert (found < 0.5).float().mean().item() > 0.2  # and is not so safe as to be of no use


def test_every_single_aspect_keeps_its_promise(fresh):
    from noiseward.noise.typicality import _alone, _together

    draws = LAYOUT.split(fresh.double())
    for aspect, p in [*_alone(draws[0]), *_together(draws)]:
        for level in (0.1, 0.01):
            slack = 4 * math.sqrt(level * (1 - level) / len(p))
            assert (p < level).float().mean().item() <= level + slack, aspect


def scaled_start(noise: torch.Tensor) -> torch.Tensor:
    noise[:, 0] *= 0.75
    return noise


def slow_wave(noise: torch.Tensor) -> torch.Tensor:
    noise[:, 3] += 0.6 * torch.cos(2 * math.pi * torch.arange(16) / 16)
    return noise


def one_frequency(noise: torch.Tensor) -> torch.Tensor:
    noise[:, 5] += 0.4 * torch.cos(2 * math.pi * 5 * torch.arange(16) / 16)[:, None]
    return noise


def copied_draw(noise: torch.Tensor) -> torch.Tensor:
    noise[:, 6] = noise[:, 2]
    return noise


def copied_channel(noise: torch.Tensor) -> torch.Tensor:
    noise[:, 4, 1] = noise[:, 4, 0]
    return noise


@pytest.mark.parametrize(
    ("spoil", "aspect"),
    [
        (scaled_start, "norm of start"),
        (torch.sign, "values of"),
        (slow_wave, "of step 3"),
        (one_frequency, "of step 5"),
        (copied_draw, "copies of all draws"),
        (copied_channel, "of step 4"),
        (lambda z: z + 0.07, "mean of all draws"),
        (lambda z: 1.06 * z, "norm of all draws"),
    ],
)
def test_it_sees_what_is_wrong_and_says_where(fresh, spoil, aspect):
    noise = spoil(fresh[:8].clone())
    found, suspect = strict_probability(noise, LAYOUT)
    assert (found < 1e-3).sum() >= 7
    assert sum(aspect in what for what in suspect) >= 7


@pytest.mark.parametrize("spoil", [scaled_start, torch.sign, slow_wave, copied_draw])
def test_the_pooled_test_is_blind_to_these(fresh, spoil):
    clean, spoiled = probability(fresh[:8], LAYOUT), probability(spoil(fresh[:8].clone()), LAYOUT)
    assert (spoiled > 0.02).all()
    assert spoiled.median() > 0.2 * clean.median()


def test_a_dead_draw_can_pay_for_the_others_unless_it_is_left_out(fresh):
    """Scale all noise up, set a draw without effect to zero: pooled with it, the noise looks right again."""
    dead = Layout((*LAYOUT.draws[:-1], Draw("step 7", (4, 16, 16), live=False)))
    noise = fresh[:8] * math.sqrt(8 / 7)
    noise[:, 7] = 0
    assert probability(noise, LAYOUT).median() > 0.2
    assert probability(noise, dead).median() < 0.01
    assert (strict_probability(noise, dead)[0] < 1e-6).all()


def test_fixed_draws_are_left_out(fresh):
    layout = Layout((*LAYOUT.draws[:-2], Draw("mask", (4, 16, 16), "other"), Draw("step 7", (4, 16, 16), live=False)))
    spoiled = fresh[:4].clone()
    spoiled[:, 6:] = 100.0
    assert torch.equal(strict_probability(fresh[:4], layout)[0], strict_probability(spoiled, layout)[0])


@pytest.mark.parametrize("shape", [(1,), (8, 1, 1), (2,), (3, 5), (16000,), (2, 7, 9), (3, 4, 8, 8)])
def test_draws_of_any_shape_are_tested_safely(shape):
    layout = Layout((Draw("start", shape, "start"), Draw("step 1", shape)))
    found, _ = strict_probability(layout.draw_noise(range(100)), layout)
    assert found.isfinite().all()
    assert (found < 0.1).float().mean() <= 0.1 + 3 * math.sqrt(0.09 / 100)
    spoiled, _ = strict_probability(layout.draw_noise(range(100)) * 6, layout)
    assert spoiled.median() < 1e-4 or math.prod(shape) < 10


def test_rows_are_independent(fresh):
    together, names = strict_probability(fresh[:4], LAYOUT)
    alone = [strict_probability(fresh[row : row + 1], LAYOUT) for row in range(4)]
    torch.testing.assert_close(together, torch.cat([p for p, _ in alone]), rtol=1e-9, atol=0)
    assert names == [name for _, (name,) in alone]


def test_tails_are_those_of_the_tables():
    assert normal(torch.tensor(1.959964)).item() == pytest.approx(0.05, abs=1e-6)
    assert chi_square(torch.tensor(20.483177), 10).item() == pytest.approx(0.05, abs=1e-6)
    assert chi_square(torch.tensor(3.246973), 10).item() == pytest.approx(0.05, abs=1e-6)
