"""The image test: uniform on fresh samples, and small for samples that the model would not make."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, IPNDMScheduler

from noiseward import DiffusersSampler, FunctionSampler
from noiseward.errors import ArgumentError
from noiseward.pipelines.open import open_sampler
from noiseward.pipelines.steps import announce_steps, track_state
from noiseward.samplers import image_tests
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.entries import number_prompts
from noiseward.samplers.image_tests import ImageTest, compare
from noiseward.samplers.profiles import Profiler
from noiseward.samplers.steps import is_guided, watch_state
from noiseward.toys import GaussianModel
from tests.families import FAMILIES
from tests.tiny import stable_diffusion

f64 = torch.float64


@functools.cache
def sampler(steps=6, dim=64):
    return GaussianModel(steps=steps, dim=dim).sampler()


def test_the_tail_of_the_f_distribution_is_that_of_tables():
    """F(4, 16) exceeds 3.01 and 4.77, and F(2, 7) exceeds 4.74, with probability 5, 1 and 5 percent."""
    found = image_tests._tail(torch.tensor([3.0069, 4.7726], dtype=f64), 4, 16)
    assert found.tolist() == pytest.approx([0.05, 0.01], rel=1e-3)
    assert image_tests._tail(torch.tensor(4.7374, dtype=f64), 2, 7).item() == pytest.approx(0.05, rel=1e-3)


def test_profiles_of_a_known_covariance_get_uniform_probabilities():
    """As exact as the prior: neighboring groups that are correlated as it expects, and n from small to large."""
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(4, dtype=f64)
    root = torch.linalg.cholesky(0.7 ** (places[:, None] - places).abs())
    for n in (8, 16, 64):
        found = []
        for _ in range(400):
            fresh, new = (torch.randn(k, 4, dtype=f64, generator=generator) @ root.T for k in (n, 10))
            found.append(compare(fresh, new))
        p = torch.cat(found)
        for level in (0.01, 0.1, 0.5):
            assert (p < level).double().mean().item() == pytest.approx(level, rel=0.35, abs=0.004)


def test_a_sample_that_is_not_predicted_by_finite_numbers_fails():
    fresh = torch.randn(8, 4, dtype=f64, generator=torch.Generator().manual_seed(0))
    off = torch.tensor([[0.0] * 4, [0.0, 0.0, 0.0, torch.inf], [torch.nan] * 4])
    p = compare(fresh, off)
    assert p[0] > 0.1 and p[1:].tolist() == [0.0, 0.0]
    toy = GaussianModel(steps=6, dim=64)
    test = ImageTest(FunctionSampler(toy.sample, denoiser=toy), fresh=4)
    noise, state = test.sampler.init(2), torch.full((2, 64), 0.5)
    state[1] = 1e30  # its square is not finite
    assert (test(noise, state, None) == 0).tolist() == [False, True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Profiler, "measure", lambda *_: [(torch.full((4,), torch.nan),)] * 4)
        test = ImageTest(sampler(), fresh=4)
        test.calibrate(None)
    assert test.trouble is not None and "predictions are finite" in test.trouble


def test_fresh_samples_pass_and_samples_that_are_off_do_not():
    found = []
    for k in range(8):  # several sets of fresh samples to compare with
        found.append(ImageTest(sampler(), seed=10_000 * k + 10**7)(sampler().init(64, seed=1000 * k), None, None))
    p = torch.cat(found)
    assert (p < 0.01).double().mean() < 0.025 and 0.015 < (p < 0.05).double().mean() < 0.075
    assert 0.4 < p.median() < 0.65
    test, fresh = ImageTest(sampler()), sampler().init(16, seed=5)
    state = sampler()(fresh)
    brighter, flatter = state + 0.7, 0.5 + 0.2 * (state - 0.5)
    assert (test(fresh, state, None) > 1e-3).all()
    assert (test(fresh, brighter, None) < 1e-3).all() and (test(fresh, flatter, None) < 1e-3).all()


def test_the_probability_of_an_image_depends_on_nothing_but_the_image():
    test, noise = ImageTest(sampler()), sampler().init(3, seed=2)
    with watch_state() as watch:
        sampler()(noise)
    together = test(noise, watch.state, None)
    assert torch.equal(together, test(noise, watch.state, None))
    assert torch.equal(together, ImageTest(sampler(), chunk=5)(noise, watch.state, None))
    torch.testing.assert_close(together[1:2], test(noise[1:2], watch.state[1:2], None))
    torch.testing.assert_close(together, test(noise, None, None))  # sampled once more


def test_each_prompt_is_compared_with_its_own_samples():
    def draw(batch, prompt):
        level = torch.tensor([float(text or 0) for text in prompt])[:, None]
        return level + toy.sample(batch) - toy.mean

    toy = GaussianModel(steps=6, dim=64)
    test = ImageTest(FunctionSampler(draw, denoiser=toy))
    noise = test.sampler.init(2, seed=3)
    test(noise, None, ["0", "2"])
    assert [text for text, _ in test._references] == ["0", "2"]
    first = dict(test._references)
    test(noise, None, "0")
    assert test._references == first


def test_a_check_costs_a_run_per_profile_and_fresh_samples_are_counted_apart():
    test, noise = ImageTest(sampler(), fresh=8, chunk=3), sampler().init(5)
    with watch_state() as watch:
        sampler()(noise)
    counts = []
    for state in (watch.state, watch.state, None):
        with count_calls() as meter:
            test(noise, state, None)
        counts.append(meter.nfe)
    assert counts == [NFE(6), NFE(6), NFE(2 * 6)]
    stickers = open_sampler("stickers", call={"num_inference_steps": 4})
    with count_calls() as meter:
        ImageTest(stickers, fresh=4)(stickers.init(1), torch.zeros(1, 8, 8, 8), "a duck")
    assert meter.nfe == NFE(2 * 4)


def test_where_there_is_no_test_it_says_why():
    silent = ImageTest(FunctionSampler(lambda batch: torch.randn(batch, 8)))
    assert silent(silent.sampler.init(2), None, None).isnan().all()
    assert silent.trouble is not None and "announced no step" in silent.trouble
    short = ImageTest(sampler(steps=2))
    assert short(short.sampler.init(2), None, None).isnan().all()
    assert short.trouble == "the image test needs a sampler of at least 3 steps, got 2"
    with pytest.raises(ArgumentError, match="fresh must be >= 4 samples, got 3"):
        ImageTest(sampler(), fresh=3)


def test_a_sampler_that_needs_its_prompt_is_tested_without_the_contrast():
    toy = GaussianModel(steps=6, dim=64)
    test = ImageTest(FunctionSampler(lambda batch, prompt: {"a": toy}[prompt[0]].sample(batch), denoiser=toy))
    test.sampler.expect("a")
    assert (test(test.sampler.init(2), None, "a") > 1e-3).all()
    assert [len(reference.profiles) for reference in test._references.values()] == [1]


def test_rows_with_images_of_their_own_are_compared_with_samples_of_theirs():
    test, prompts = ImageTest(sampler()), number_prompts(["a", "a"], 2)
    for prompt in prompts:
        test.calibrate(prompt)
    assert len(test._references) == 2
    p = ImageTest(sampler())(sampler().init(2), None, prompts)  # equal as texts
    assert ((p > 0) & (p <= 1)).all()


def test_rows_that_are_sampled_one_at_a_time_are_tested_so():
    toy = GaussianModel(steps=6, dim=64)
    alone = ImageTest(FunctionSampler(lambda: toy.sample(1), denoiser=toy))
    noise = alone.sampler.init(3)
    with watch_state() as watch:
        alone.sampler(noise)
    found = alone(noise, watch.state, None)
    together = ImageTest(toy.sampler())(noise, watch.state, None)
    assert alone.trouble is None and alone.chunk == 1
    torch.testing.assert_close(found, together, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, alone(noise, None, None))
    with count_calls() as meter:
        alone(noise, watch.state, None)
    assert meter.nfe == NFE(6)  # per row


@pytest.mark.parametrize("name", ["Stable Diffusion 1", "DDPM", "SDXL", "Stable Diffusion 3, stochastic", "Flux"])
def test_pipelines_of_all_kinds_are_tested_and_left_as_they_were(name):
    family = FAMILIES[name]
    pipeline = DiffusersSampler(family.build(), **{**family.call, "num_inference_steps": 4})
    prompt = family.prompts[0] if family.prompts else None
    noise = pipeline.init(3)
    before = pipeline(noise, prompt)
    test = ImageTest(pipeline, fresh=6, chunk=3)
    p = test(noise, None, prompt)
    assert test.trouble is None and ((p > 0) & (p <= 1)).all()
    assert torch.equal(pipeline(noise, prompt), before)
    with watch_state() as watch:
        pipeline(noise, prompt)
    assert torch.equal(p, test(noise, watch.state, prompt))


def test_a_sticker_that_is_flat_recolored_or_of_another_thing_is_seen():
    """Latents halfway to the mean of the model's are too easy to denoise."""
    stickers = open_sampler("stickers", call={"num_inference_steps": 8})
    noise, prompt = stickers.init(4, seed=0), "a duck on a blue background"
    with watch_state() as watch:
        stickers(noise, prompt)
    test = ImageTest(stickers, fresh=12)
    assert (test(noise, watch.state, prompt) > 1e-3).all()
    assert (test(noise, 0.5 * watch.state, prompt) < 1e-2).all()
    assert (test(noise, watch.state + 0.7, prompt) < 1e-2).all()
    assert (test(noise, watch.state, "a banana on a red background") < 1e-2).all()


def test_fresh_samples_are_reported_while_they_are_made():
    made = []
    with image_tests.report_fresh(lambda count, of: made.append((count, of))):
        ImageTest(sampler(), fresh=10, chunk=4).calibrate(None)
    ImageTest(sampler(), fresh=4).calibrate(None)
    assert made == [(4, 10), (8, 10), (10, 10)]


def test_fresh_samples_are_made_one_by_one_where_memory_is_short():
    toy, sizes = GaussianModel(steps=6, dim=64), []

    def draw(batch):
        sizes.append(batch)
        if batch > 1:
            raise torch.OutOfMemoryError("out of memory")
        return toy.sample(batch)

    test = ImageTest(FunctionSampler(draw, denoiser=toy), fresh=4)
    assert (test(test.sampler.init(1), None, None) > 0).all() and test.chunk == 1 and max(sizes) == 4


def test_a_sampler_that_takes_one_row_or_fails_when_guided_fails_no_run():
    toy, guided = GaussianModel(steps=6, dim=64), []

    def draw(batch):
        if batch > 1 or (guided and is_guided()):
            raise ValueError("one row, unguided")
        return toy.sample(batch)

    test = ImageTest(FunctionSampler(draw, denoiser=toy), fresh=4)
    assert (test(test.sampler.init(1), None, None) > 0).all() and test.trouble is None
    guided.append(True)
    test = ImageTest(FunctionSampler(draw, denoiser=toy), fresh=4)
    assert test(test.sampler.init(1), None, None).isnan().all()
    assert test.trouble == "ValueError: one row, unguided"


def test_a_pipeline_that_does_not_say_what_it_predicts_is_not_tested_and_works_as_before():
    pipe = stable_diffusion()
    pipe.scheduler = IPNDMScheduler(num_train_timesteps=1000)
    pipeline = DiffusersSampler(pipe, num_inference_steps=4, height=8, width=8)
    noise = pipeline.init(2)
    with watch_state() as watch:
        sample = pipeline(noise, "a")
    assert watch.state is None and torch.equal(sample, pipeline(noise, "a"))
    test = ImageTest(pipeline, fresh=4)
    assert test(noise, None, "a").isnan().all() and "IPNDMScheduler does not say" in test.trouble


def test_a_copy_of_a_watched_scheduler_has_a_step_of_its_own():
    """Pipelines that denoise sound beside images copy their scheduler."""
    own, plain = (FlowMatchEulerDiscreteScheduler() for _ in range(2))
    for scheduler in (own, plain):
        scheduler.set_timesteps(3)
    state = torch.ones(1, 2)
    with watch_state() as watch, announce_steps(own, lambda clean: clean), track_state(own) as last:
        copied = copy.deepcopy(own)
        assert inspect.signature(own.step) == inspect.signature(plain.step)
        after = copied.step(0.5 * state, copied.timesteps[0], state, return_dict=False)[0]
        assert own.step_index is None and watch.state is None and not last
        assert torch.equal(own.step(0.5 * state, own.timesteps[0], state, return_dict=False)[0], after)
        assert torch.equal(watch.state, 0.5 * state) and torch.equal(last[0], after)
    assert torch.equal(after, plain.step(0.5 * state, plain.timesteps[0], state, return_dict=False)[0])


def test_the_sampler_of_few_steps_is_asked_at_the_levels_of_more():
    family = FAMILIES["Stable Diffusion 1"]
    for steps in (1, 2):
        pipeline = DiffusersSampler(family.build(), **{**family.call, "num_inference_steps": steps})
        test = ImageTest(pipeline, fresh=6)
        with count_calls() as meter:
            p = test(pipeline.init(2), None, "a")
        assert test.trouble is None and ((p > 0) & (p <= 1)).all()
        assert meter.nfe == NFE(steps + 2 * 4)  # once more, then four steps with and without the prompt
    listed = DiffusersSampler(family.build(), **{**family.call, "timesteps": [900, 400], "num_inference_steps": None})
    assert listed.with_steps(4) is None
