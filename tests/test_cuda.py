"""On a GPU: the samples, gradients and runs of the processor, and memory that is really given back."""

from __future__ import annotations

import pytest
import torch

from noiseward import Backprop, DiffusersSampler, ImageTest, Objective, Seeds, align, stickers
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import make_reward
from noiseward.runs import resume
from noiseward.samplers.memory import MODES
from tests.families import flows, unets
from tests.tiny import CALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
PROMPTS = ["a duck", "a fox on a blue background"]
SHORT = {"num_inference_steps": 4, "eta": 1.0, "guidance_scale": 3.0}
REWARDS = ("brightness", "contrast", "clip", "jpeg", "saturation")
METHODS = (
    "dno", "dno:guard=none", "dno:paper", "dno:estimator=hybrid1", "dno:estimator=hybrid2",
    "dno:estimator=zeroth-order", "auto", "best-of-n", "trust-region", "zero-order", "evolution", "fk", "walk", "ntrk",
    "pcnl", "reno", "dps", "refine",
)  # fmt: skip


@pytest.fixture(scope="module")
def both():
    """The built-in model's sampler on the processor and on the GPU, in float32."""
    torch.backends.cudnn.allow_tf32 = False
    return [DiffusersSampler(load_pipeline("stickers", device=device, dtype=torch.float32), **SHORT)
            for device in ("cpu", "cuda")]  # fmt: skip


def gradient(sampler, reward, noise):
    objective = Objective(sampler, make_reward(reward), PROMPTS)
    evaluation, found = Backprop()(objective, noise, Seeds((0, 1)))
    return evaluation.reward.cpu(), found.cpu()


def test_noise_and_samples_are_those_of_the_processor(both):
    slow, fast = (sampler.init(2, seed=3) for sampler in both)
    assert fast.is_cuda and torch.equal(slow, fast.cpu())
    one, two = (sampler(noise, PROMPTS).cpu() for sampler, noise in zip(both, (slow, fast), strict=True))
    torch.testing.assert_close(one, two, rtol=0, atol=2e-3)


@pytest.mark.parametrize("reward", ["brightness", "contrast", "clip"])
def test_rewards_and_gradients_are_those_of_the_processor(both, reward):
    (one, slow), (two, fast) = (gradient(sampler, reward, sampler.init(2, seed=3)) for sampler in both)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(slow.flatten(1), fast.flatten(1)).min() > 0.999


def test_gradients_in_tf32_point_where_those_of_float32_do(both):
    noise = both[1].init(2, seed=3)
    _, plain = gradient(both[1], "contrast", noise)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        _, found = gradient(both[1], "contrast", noise)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.cosine_similarity(plain.flatten(1), found.flatten(1)).min() > 0.98


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_the_same_in_every_memory_mode(both, mode):
    pipe = both[1].pipe
    noise = both[1].init(2, seed=3)
    _, plain = gradient(DiffusersSampler(pipe, memory="fast", **SHORT), "contrast", noise)
    _, found = gradient(DiffusersSampler(pipe, memory=mode, **SHORT), "contrast", noise)
    assert torch.cosine_similarity(plain.flatten(1), found.flatten(1)).min() > 0.9999


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_of_an_image_are_those_of_the_processor(name):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reward = make_reward(name)
    one, two = (reward(images.to(device), PROMPTS).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_methods_raise_the_reward(both, method):
    start = {"start": both[1].init(1, seed=5)[0]} if method == "refine" else {}
    found = align(both[1], "a duck", "brightness", method=method, nfe=400, progress=False, seed=5, **start)
    assert found.sample.is_cuda and found.sample.isfinite().all()
    assert (found.reward >= found.initial.reward).all() and found.reward.isfinite().all()


def test_bfloat16_is_the_default_and_goes_as_well():
    found = align("stickers", PROMPTS, "brightness", steps=3, progress=False, **SHORT)
    assert found.sample.isfinite().all() and (found.reward >= found.initial.reward).all()


def test_the_image_test_is_that_of_the_processor(both):
    slow, fast = (ImageTest(sampler, fresh=8)(sampler.init(2, seed=3), None, PROMPTS).cpu() for sampler in both)
    torch.testing.assert_close(slow, fast, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("method", ["dno", "auto", "ntrk", "trust-region", "walk"])
def test_a_resumed_run_goes_where_it_would_have_gone(tmp_path, method):
    def run(folder, **more):
        return align("stickers", "a duck", "clip", method=method, out=tmp_path / folder, seed=1, progress=False,
                     dtype="float32", **SHORT, **more)  # fmt: skip

    whole, first = run("whole", steps=6), run("part", steps=3)
    assert first.reward.item() != whole.reward.item()
    rest = resume(tmp_path / "part", steps="6", quiet=True)
    torch.testing.assert_close(whole.noise.cpu(), rest.noise.cpu(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["models", "layers"])
@pytest.mark.parametrize("family", ["unet", "flux"])
def test_offloaded_weights_give_the_same_gradient(family, kind):
    pytest.importorskip("accelerate")

    def measure(offload):
        pipe = (unets.sd1 if family == "unet" else flows.flux)()
        if offload == "models":
            pipe.enable_model_cpu_offload(device="cuda")
        elif offload == "layers":
            pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True)
        else:
            pipe.to("cuda")
        sampler = DiffusersSampler(pipe, memory="low", **CALL)
        objective = Objective(sampler, make_reward("brightness"), "a")
        return Backprop()(objective, sampler.init(1, seed=0), Seeds((0,)))[1].cpu()

    torch.testing.assert_close(measure(kind), measure(None), rtol=1e-4, atol=1e-7)


def test_four_bits_have_the_gradient_of_their_own_model():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from benchmarks.on_card import quantize

    pipe = flows.flux().to("cuda")
    quantize(pipe.transformer)
    assert any(isinstance(part, bitsandbytes.nn.Linear4bit) for part in pipe.transformer.modules())
    sampler = DiffusersSampler(pipe, memory="low", **CALL)
    objective = Objective(sampler, make_reward("brightness"), "a")
    noise = sampler.init(1, seed=0)
    _, found = Backprop()(objective, noise, Seeds((0,)))
    step = 0.05 * found / found.norm()
    with torch.no_grad():
        rise = objective(noise + step).reward - objective(noise - step).reward
    assert rise.item() == pytest.approx(0.1 * found.norm().item(), rel=0.1)


def test_a_step_leaves_no_memory_behind(both):
    sampler = both[1]
    gradient(sampler, "brightness", sampler.init(2, seed=3))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        gradient(sampler, "brightness", sampler.init(2, seed=3))
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_memory_auto_takes_what_fits():
    found = align("stickers", "a duck", "brightness", steps=1, memory="auto", progress=False, **SHORT)
    assert found.sample.is_cuda
    assert stickers.path().exists()
