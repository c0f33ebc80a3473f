"""Profiles: the energy of what the denoiser misses, split by level and by size of detail."""

from __future__ import annotations

import pytest
import torch

from noiseward.pipelines.open import open_sampler
from noiseward.samplers.profiles import Profiler, split_energy
from noiseward.toys import GaussianModel


def checkers(period, size=32):
    """A checkerboard of squares whose side is half a period."""
    side = torch.arange(size) // (period // 2) % 2
    return (2.0 * (side[:, None] ^ side) - 1)[None, None]


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 8, 8, 8), (2, 4, 3, 16, 24)])
def test_the_bands_are_parts_of_the_whole(shape):
    residual = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    bands = split_energy(residual)
    assert bands.shape == (2, 4) and (bands > 0).all()
    torch.testing.assert_close(bands.sum(1), residual.square().flatten(1).mean(1))
    torch.testing.assert_close(split_energy(residual[1:]), bands[1:])


def test_each_size_of_detail_has_a_band():
    found = torch.cat([split_energy(checkers(period)) for period in (2, 4, 8, 16)])
    torch.testing.assert_close(found, torch.eye(4))


def test_sizes_that_are_odd_are_split_and_what_is_no_image_is_whole():
    flat = torch.full((1, 1, 9, 13), 2.0)
    torch.testing.assert_close(split_energy(flat), torch.tensor([[0.0, 0.0, 0.0, 4.0]]))
    for shape in ((2, 64), (2, 5, 16), (2, 3, 7, 9)):
        assert split_energy(torch.ones(shape)).tolist() == [[1.0], [1.0]]


def test_a_prompt_adds_the_profiles_of_what_it_contributes():
    stickers = open_sampler("stickers", call={"num_inference_steps": 6})
    profiler, noise = Profiler(stickers), stickers.init(2, seed=0)
    state = profiler.sample(noise, ["a duck", ""])
    with torch.no_grad():
        asked, empty = profiler.measure(state, ["a duck", ""])
        alone, other = profiler.measure(state, ["", "a duck"])
    assert [len(row) for row in (asked, empty, alone, other)] == [4, 2, 2, 4]
    for kind in (0, 1):
        torch.testing.assert_close(asked[2 + kind], asked[kind] - alone[kind], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(empty[kind], other[kind] - other[2 + kind], rtol=1e-4, atol=1e-4)


def test_the_levels_are_found_out_once_and_the_sample_is_the_samplers():
    sampler = GaussianModel(steps=6, dim=64).sampler()
    noise = sampler.init(3, seed=1)
    before, after = Profiler(sampler), Profiler(sampler)
    state = after.sample(noise, None)
    torch.testing.assert_close(state, sampler(noise))
    for one, two in zip(before.measure(state, None), after.measure(state, None), strict=True):
        assert torch.equal(one[0], two[0])
