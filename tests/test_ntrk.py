"""Noise tilting, in closed form where the gradient is known; and what a sampler ends with, watched."""

import math

import pytest
import torch

from noiseward import DiffusersSampler
from noiseward.noise.typicality import strict_probability
from noiseward.optimizers.guidance import NTRK
from noiseward.optimizers.guidance.ntrk import tilt
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.guide import StateReset
from noiseward.samplers.steps import watch_state
from tests.families import FAMILIES
from tests.test_guidance import STEERABLE, STOCHASTIC_FLOW, Recording, brightness, model, run

f64 = torch.float64


def test_ntrk_turns_each_draw_by_its_share_towards_the_whitened_gradient():
    """For a linear reward the gradient is the slope times a number, so that the tilted noise is known."""
    toy = model(4, dim=64)
    sampler = toy.sampler()
    noise, slope = sampler.init(2), torch.randn(64, dtype=f64, generator=torch.Generator().manual_seed(0))
    end = run(sampler, noise, NTRK(torch.tensor([0.25, 0.0])), lambda x: (x * slope).sum(1))
    spectrum = torch.fft.fft(slope, norm="ortho")
    white = torch.fft.ifft(spectrum / spectrum.abs(), norm="ortho").real
    assert white.square().mean().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(end.noise[0, 1:4], math.sqrt(0.75) * noise[0, 1:4] + 0.5 * white)
    assert torch.equal(end.noise[0, 0], noise[0, 0])  # the first draw is the seed's
    assert torch.equal(end.noise[:, 4], noise[:, 4])  # and the last is dead
    torch.testing.assert_close(end.noise[1], noise[1])
    torch.testing.assert_close(end.sample, sampler(end.noise))


def test_tilted_noise_passes_the_strict_test_where_the_plain_gradient_fails_it():
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    smooth = torch.linspace(0, 1, 32).expand(64, 3, 32, 32) + 1e-3 * noise.roll(1, 0)
    tilted = tilt(noise, smooth, torch.tensor(0.2))
    plain = math.sqrt(0.8) * noise + math.sqrt(0.2) * smooth / smooth.square().mean().sqrt()
    assert (strict_probability(tilted)[0] > 1e-3).all()
    assert (strict_probability(plain)[0] < 1e-10).all()


def test_frequencies_without_a_gradient_keep_the_draw():
    draw = torch.randn(2, 2, 8, 8, dtype=f64)
    gradient = torch.zeros_like(draw)
    assert torch.allclose(tilt(draw, gradient, torch.tensor(0.5)), draw)
    gradient[:, 0] = torch.randn(8, 8, dtype=f64)
    tilted = tilt(draw, gradient, torch.tensor(0.5))
    assert torch.allclose(tilted[:, 1], draw[:, 1]) and not torch.allclose(tilted[:, 0], draw[:, 0])


@pytest.mark.parametrize("name", [*STEERABLE, STOCHASTIC_FLOW])
def test_a_watched_pipeline_samples_the_same_and_ends_with_the_state_it_decodes(name):
    family = FAMILIES[name]
    sampler = DiffusersSampler(family.build(), **{**family.call, "num_inference_steps": 3})
    prompt = family.prompts[0] if family.prompts else None
    noise = sampler.init(2).requires_grad_()
    plain = sampler(noise, prompt)
    with watch_state() as watch:
        watched = sampler(noise, prompt)
    assert torch.equal(plain, watched) and watch.state is not None and not watch.state.requires_grad
    gradients = [torch.autograd.grad(sample.double().square().mean(), noise)[0] for sample in (plain, watched)]
    assert torch.equal(*gradients)
    end = run(sampler, noise.detach(), Recording(), brightness, prompt)
    torch.testing.assert_close(watch.state, end.state)


def test_rows_that_are_sampled_alone_are_watched_one_after_the_other():
    toy = model(3, dtype=torch.float32)
    alone = FunctionSampler(lambda: toy.sample(1), denoiser=toy)
    noise = alone.init(3)
    with watch_state() as watch:
        sample = alone(noise)
    torch.testing.assert_close(watch.state, sample)


def test_a_reset_puts_a_state_in_the_place_of_the_next():
    toy = model()
    sampler, state = toy.sampler(), torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=f64)
    guide = Recording(lambda moment: StateReset(state) if moment.index == 1 else None)
    run(sampler, sampler.init(2), guide)
    assert torch.equal(guide.seen[2].noisy, state) and not torch.equal(guide.seen[1].noisy, state)
