"""The diffusers adapter: the stock pipeline bit for bit, with a gradient that is right."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from noiseward import ArgumentError, DiffusersSampler, FunctionReward, GradientAscent, ModelError, Objective
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.pipelines.load import load_pipeline
from noiseward.samplers.cost import count_calls
from tests.tiny import CALL, stable_diffusion


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


@pytest.fixture(scope="module")
def wide_pipe():
    return stable_diffusion().to(torch.float64)


def weigh(sample: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(sample.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (sample * weights.to(sample)).flatten(1).sum(1)


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_starts_at_the_stock_image_of_a_seed_bit_for_bit(pipe, eta, memory):
    sampler = DiffusersSampler(pipe, memory=memory, eta=eta, **CALL)
    sample = sampler(sampler.init(1, seed=7), "a duck")
    generator = torch.Generator().manual_seed(7)
    stock = pipe("a duck", eta=eta, generator=generator, output_type="pt", **CALL).images
    assert torch.equal(sample, stock)
    assert len(sampler.layout) == (1 if eta == 0 else 5)


def test_the_stock_image_of_given_latents_bit_for_bit(pipe):
    sampler = DiffusersSampler(pipe, eta=0.0, **CALL)
    noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    stock = pipe(["a", "b"], latents=noise[:, 0], output_type="pt", **CALL).images
    assert torch.equal(sampler(noise, ["a", "b"]), stock)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_other_schedulers_start_at_the_stock_image_too(scheduler):
    pipe = stable_diffusion()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    sampler = DiffusersSampler(pipe, **CALL)
    stock = pipe("a", generator=torch.Generator().manual_seed(2), output_type="pt", **CALL).images
    assert torch.equal(sampler(sampler.init(1, seed=2), "a"), stock)


def test_the_last_draw_of_an_ancestral_scheduler_is_dead():
    pipe = stable_diffusion()
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    assert DiffusersSampler(pipe, **CALL).layout.dead == ("step 4",)


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gradient_agrees_with_finite_differences(wide_pipe, eta, memory):
    sampler = DiffusersSampler(wide_pipe, memory=memory, eta=eta, **CALL)
    noise = sampler.init(1, seed=4).requires_grad_()
    along = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(weigh(sampler(noise, "a b")).sum(), noise)
    with torch.no_grad():
        up, down = (weigh(sampler(noise + sign * 1e-5 * along, "a b")) for sign in (1, -1))
    assert noise.dtype == torch.float64
    torch.testing.assert_close((gradient * along).sum(), ((up - down) / 2e-5)[0], rtol=1e-6, atol=1e-8)


def test_every_draw_that_weighs_in_has_its_own_gradient(wide_pipe):
    sampler = DiffusersSampler(wide_pipe, eta=1.0, **CALL)
    noise = sampler.init(1, seed=4).requires_grad_()
    (gradient,) = torch.autograd.grad(weigh(sampler(noise, "a")).sum(), noise)
    for k, draw in enumerate(sampler.layout.split(gradient)):
        step = torch.zeros_like(noise)
        step[:, k] = draw / draw.norm()
        with torch.no_grad():
            slope = (weigh(sampler(noise + 1e-5 * step, "a")) - weigh(sampler(noise - 1e-5 * step, "a"))) / 2e-5
        torch.testing.assert_close(draw.norm(), slope[0], rtol=1e-5, atol=1e-9)


def test_recomputing_gives_the_same_gradient_and_counts_it(pipe):
    gradients, calls = [], []
    for memory in ("fast", "balanced"):
        sampler = DiffusersSampler(pipe, memory=memory, eta=1.0, **CALL)
        noise = sampler.init(1, seed=4).requires_grad_()
        with count_calls() as meter:
            gradients.append(torch.autograd.grad(weigh(sampler(noise, "a")).sum(), noise)[0])
        calls.append(meter.nfe)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert (calls[0].forward, calls[0].backward, calls[0].recomputed) == (4, 4, 0)
    assert (calls[1].forward, calls[1].backward, calls[1].recomputed) == (4, 4, 4)


def test_rows_with_their_own_prompts_are_independent(wide_pipe):
    sampler = DiffusersSampler(wide_pipe, eta=1.0, negative_prompt="d", **CALL)
    noise, prompts = sampler.init(3, seed=1), ["a", "b c", "b c"]
    together = sampler(noise, prompts)
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(together[row : row + 1], sampler(noise[row : row + 1], prompt), rtol=0, atol=1e-12)
    assert not torch.equal(sampler(noise[:1], "a"), sampler(noise[:1], "b c"))


def test_ascent_raises_a_reward_and_leaves_the_pipeline_as_it_was(pipe):
    before = dict(vars(pipe))
    sampler = DiffusersSampler(pipe, eta=1.0, **CALL)
    objective = Objective(sampler, FunctionReward(lambda images: images.mean((1, 2, 3)), name="brightness"), "a")
    steps = list(iterate(objective, sampler.init(2), optimizer=GradientAscent(lr=0.05), budget=Budget(steps=6)))
    assert (steps[-1].evaluation.reward > steps[0].evaluation.reward).all()
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
    assert vars(pipe) == before
    assert "forward" not in vars(pipe.unet)


@pytest.mark.filterwarnings("ignore:the prompt is longer")
def test_the_prompt_is_encoded_once(pipe, monkeypatch):
    calls = []
    encode = type(pipe).encode_prompt
    monkeypatch.setattr(type(pipe), "encode_prompt", lambda self, *a, **k: calls.append(1) or encode(self, *a, **k))
    sampler = DiffusersSampler(pipe, **CALL)
    noise = sampler.init(1)
    first = len(calls)
    for _ in range(3):
        sampler(noise, "a new prompt")
    assert len(calls) == first + 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"num_inference_step": 4}, "no argument 'num_inference_step'; did you mean 'num_inference_steps'"),
        ({"generator": None}, "use seed="),
        ({"latents": None}, "pass noise to the sampler"),
        ({"output_type": "pil"}, "always tensors"),
        ({"num_images_per_prompt": 2}, "use batch="),
        ({"memory": "huge"}, "available: fast, balanced, low, auto"),
    ],
)
def test_arguments_that_have_no_place_are_refused_in_one_line(pipe, call, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        DiffusersSampler(pipe, **call)
    assert "\n" not in str(caught.value)


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(ModelError, match="FunctionSampler"):
        DiffusersSampler(torch.nn.Linear(1, 1))


def test_a_safety_checker_is_set_aside_with_a_warning(monkeypatch):
    pipe = stable_diffusion()
    pipe.register_modules(safety_checker=torch.nn.Identity())
    with pytest.warns(UserWarning, match="safety checker leaves the graph"):
        sampler = DiffusersSampler(pipe, **CALL)
    assert sampler(sampler.init(1), "a").shape == (1, 3, 16, 16)
    assert pipe.safety_checker is not None


def test_a_saved_folder_loads_and_gives_the_same_image(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    first, second = (DiffusersSampler(which, eta=1.0, **CALL) for which in (pipe, loaded))
    assert torch.equal(first(first.init(1), "a"), second(second.init(1), "a"))


def test_a_corrupt_weights_file_is_one_line(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="missing or damaged") as caught:
        load_pipeline(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_missing_weights_file_is_one_line(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    with pytest.raises(ModelError, match="missing or damaged") as caught:
        load_pipeline(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-model", "no folder here, no short name and no hub id"),
        (".", "no model_index.json"),
        ("a/b/c", "no hub id"),
    ],
)
def test_a_model_that_is_none_is_one_line(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=says):
        load_pipeline(name)
