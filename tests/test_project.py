"""Projections: exact on their set, the identity (nearly) on true noise, row by row and draw by draw."""

from __future__ import annotations

import math

import pytest
import torch

from noiseward import ArgumentError, Draw, GradientAscent, Layout, Objective
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.noise.project import NormProjection, SpectralProjection, white_magnitudes
from noiseward.samplers.function import FunctionSampler
from noiseward.toys import Linear

LAYOUT = Layout(
    (
        Draw("start", (4, 32, 32), "start"),
        Draw("step 1", (4, 32, 32)),
        Draw("mask", (4, 32, 32), "other"),
        Draw("step 2", (4, 32, 32), live=False),
    )
)
PROJECTIONS = [NormProjection(), SpectralProjection()]


def fresh(rows: int = 2) -> torch.Tensor:
    return LAYOUT.draw_noise(range(rows)).double()


def patterns() -> dict[str, torch.Tensor]:
    """Patterns of standard deviation 1 over a draw that no Gaussian would show."""
    x = torch.arange(32.0, dtype=torch.float64)
    return {
        "shift": torch.ones(4, 32, 32, dtype=torch.float64),
        "wave": (math.sqrt(2) * torch.cos(2 * math.pi * x / 32)).expand(4, 32, 32),
        "checkerboard": ((-1.0) ** (x[:, None] + x[None, :])).expand(4, 32, 32).double(),
    }


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_true_noise_is_hardly_changed(projection):
    noise = fresh(20)
    cosine = torch.cosine_similarity(projection.noise(noise, LAYOUT)[:, :2].flatten(2), noise[:, :2].flatten(2), dim=2)
    assert cosine.min() >= 0.98


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("change", [lambda z: 1.3 * z, lambda z: z + 0.5, lambda z: z * (1 + z.abs()), torch.tanh])
def test_every_moving_draw_lands_on_its_sphere(projection, change):
    projected = projection.noise(change(fresh()), LAYOUT)[:, :2]
    torch.testing.assert_close(projected.flatten(2).norm(dim=2), torch.full((2, 2), 64.0, dtype=torch.float64))


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_projecting_twice_is_projecting_once(projection):
    once = projection.noise(fresh() ** 3, LAYOUT)
    torch.testing.assert_close(projection.noise(once, LAYOUT), once, rtol=0, atol=1e-7)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_fixed_draws_are_left_alone(projection):
    noise = 2 * fresh()
    assert torch.equal(projection.noise(noise, LAYOUT)[:, 2:], noise[:, 2:])
    assert torch.equal(projection.direction(noise, LAYOUT)[:, 2:], noise[:, 2:])


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_rows_and_draws_are_independent(projection):
    noise = fresh(3) ** 3
    alone = torch.cat([projection.noise(noise[row : row + 1], LAYOUT) for row in range(3)])
    torch.testing.assert_close(projection.noise(noise, LAYOUT), alone, rtol=0, atol=1e-12)
    other = noise.clone()
    other[:, 0] = 7.0
    assert torch.equal(projection.noise(noise, LAYOUT)[:, 1], projection.noise(other, LAYOUT)[:, 1])


def spectrum_blocks(draw: torch.Tensor) -> torch.Tensor:
    """The b = 16 blocks of magnitudes of one draw, by the full transform and its definition."""
    full = torch.fft.fft(draw.flatten(), norm="ortho")
    half = full.numel() // 2
    first = torch.complex(full[0].real, full[half].real) / math.sqrt(2)
    return torch.cat([first[None], full[1:half]]).abs().view(-1, 16)


def test_spectral_projection_meets_both_sums_in_every_block():
    projected = SpectralProjection().noise(fresh(1) ** 3 + 0.2, LAYOUT)
    for k in range(2):
        blocks = spectrum_blocks(projected[0, k])
        torch.testing.assert_close(blocks.sum(1), torch.full_like(blocks[:, 0], math.sqrt(math.pi) / 2 * 16))
        torch.testing.assert_close(blocks.square().sum(1), torch.full_like(blocks[:, 0], 16.0))


def test_true_noise_has_these_sums_on_average():
    blocks = torch.cat([spectrum_blocks(draw) for draw in fresh(8)[:, 0]])
    count = blocks.numel()
    assert blocks.mean().item() == pytest.approx(math.sqrt(math.pi) / 2, abs=5 * 0.47 / math.sqrt(count))
    assert blocks.square().mean().item() == pytest.approx(1, abs=5 / math.sqrt(count))


@pytest.mark.parametrize("name", ["shift", "wave", "checkerboard"])
def test_structure_is_taken_out_of_noise_and_of_directions(name):
    pattern = patterns()[name]
    noise = fresh(4)
    noise[:, 0] += pattern
    part = (SpectralProjection().noise(noise, LAYOUT)[:, 0] * pattern).mean((1, 2, 3))
    assert (part.abs() < 0.15).all()  # of 1.0
    direction = torch.zeros_like(noise)
    direction[:, 0] = 1e-4 * (pattern + 0.1 * fresh(4)[:, 0])
    white = SpectralProjection().direction(direction, LAYOUT)[:, 0]
    assert (torch.cosine_similarity(white.flatten(1), pattern.flatten()[None], dim=1).abs() < 0.15).all()


def test_white_magnitudes_are_the_nearest_feasible_point():
    generator = torch.Generator().manual_seed(0)
    given = 3 * torch.rand(300, 16, generator=generator, dtype=torch.float64) ** 2
    nearest = white_magnitudes(given)
    assert (nearest >= 0).all()
    feasible = white_magnitudes(torch.rand(300, 16, generator=generator, dtype=torch.float64) ** 2)
    assert ((nearest - given).norm(dim=1) <= (feasible - given).norm(dim=1) + 1e-9).all()
    # stationarity on the support: kept = s (given - tau), so (given - kept / s) is one number per row
    for row, kept in zip(given, nearest, strict=True):
        support = kept > 0
        slope, tau = torch.linalg.lstsq(
            torch.stack([row[support], -torch.ones_like(row[support])], 1), kept[support][:, None]
        ).solution[:, 0]
        torch.testing.assert_close(slope * row[support] - tau, kept[support], rtol=0, atol=1e-9)
        assert (row[~support] * slope <= tau + 1e-9).all()


@pytest.mark.parametrize("given", [torch.zeros(1, 16), torch.ones(1, 16), 1e-8 * torch.ones(1, 16)])
def test_blocks_without_a_nearest_point_still_become_feasible(given):
    found = white_magnitudes(given)
    assert found.sum().item() == pytest.approx(math.sqrt(math.pi) / 2 * 16, rel=1e-3)
    assert found.square().sum().item() == pytest.approx(16, rel=1e-4)


def test_a_zero_direction_stays_zero():
    zero = torch.zeros(2, *LAYOUT.noise_shape)
    assert torch.equal(SpectralProjection().direction(zero, LAYOUT), zero)


def test_draws_that_are_no_multiple_of_32_are_refused():
    layout = Layout((Draw("start", (5, 7), "start"),))
    with pytest.raises(ArgumentError, match="got 35 in 'start'"):
        SpectralProjection().noise(torch.randn(1, 1, 5, 7), layout)


@pytest.mark.parametrize(
    "projections", [[NormProjection()], [SpectralProjection()], [SpectralProjection(), NormProjection()]]
)
def test_ascent_stays_on_the_set_and_still_gains(projections):
    slope = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(5)).double()
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 4, 32, 32, dtype=torch.float64))
    objective = Objective(sampler, Linear(slope))  # type: ignore[arg-type]
    optimizer = GradientAscent(lr=0.05, project=projections)
    steps = list(iterate(objective, sampler.init(2), optimizer=optimizer, budget=Budget(steps=10)))
    for step in steps[1:]:
        torch.testing.assert_close(step.noise.flatten(1).norm(dim=1), torch.full((2,), 64.0, dtype=torch.float64))
    assert (steps[-1].evaluation.reward > steps[0].evaluation.reward + 500).all()
