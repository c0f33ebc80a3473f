"""A call repeated for the gradient is the same call, whatever has changed since; where it is not, that is an error."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import math
import warnings
import weakref
from typing import Any

import pytest
import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers import StableDiffusionPAGPipeline as PAGPipeline
from torch import nn

from noiseward import DiffusersSampler, FunctionSampler
from noiseward.errors import GradientError, NoisewardWarning
from noiseward.samplers.cost import Meter
from noiseward.samplers.memory import MODES
from noiseward.samplers.recompute import recompute_call
from noiseward.samplers.state import forget_parts, snapshot
from tests.families import flows, text, unets


def image_score(images):
    return images.sin().mean((1, 2, 3))


def gradient(sampler, noise):
    leaf = noise.clone().requires_grad_()
    return torch.autograd.grad(image_score(sampler(leaf, "a b")).sum(), leaf)[0]


def random_direction(noise):
    return torch.randn(noise.shape, generator=torch.Generator().manual_seed(5), dtype=noise.dtype)


def slopes(sampler, noise, width):
    """Along a random direction, which a gradient that is wrong does not know: by it, and by finite differences."""
    along = random_direction(noise)
    with torch.no_grad():
        up, down = (image_score(sampler(noise + sign * width * along, "a b")).sum() for sign in (1, -1))
    return float((gradient(sampler, noise) * along).sum()), float(up - down) / (2 * width)


def pag() -> Any:
    return PAGPipeline(**unets.parts(), pag_applied_layers=["mid"])


def add_adapter(pipe, module) -> Any:
    from peft import LoraConfig

    torch.manual_seed(3)
    module.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    return pipe


def chroma() -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`FluxPosEmbed` is deprecated", category=FutureWarning)
        transformer = ChromaTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=2 * text.WIDTH, axes_dims_rope=(4, 4, 8),
            approximator_num_channels=64, approximator_hidden_dim=16, approximator_layers=1,
        )  # fmt: skip
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=flows.flow_vae(), text_encoder=text.t5(),
        tokenizer=text.t5_tokenizer(), transformer=transformer,
    )  # fmt: skip


SIZE = {"height": 16, "width": 16, "num_inference_steps": 2}
CASES = {
    "attention processors of a call": (pag, {**SIZE, "pag_scale": 3.0, "eta": 1.0}, 1e-4, 1e-6),
    "an adapter's scale of a call": (
        lambda: add_adapter(pipe := unets.sd1(), pipe.unet),
        {**SIZE, "eta": 1.0, "cross_attention_kwargs": {"scale": 0.5}}, 1e-4, 1e-6,
    ),
    "an adapter's scale of a call, transformer": (
        lambda: add_adapter(pipe := flows.flux(), pipe.transformer),
        {**SIZE, "joint_attention_kwargs": {"scale": 0.5}}, 1e-2, 2e-3,
    ),
    "a mask that the model's own checkpointing drops": (
        chroma, {**SIZE, "max_sequence_length": 8, "negative_prompt": "d"}, 1e-2, 2e-3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_agree_with_finite_differences_along_a_random_direction(case, mode):
    build, call, width, tolerance = CASES[case]
    pipe = build().to(torch.float64)
    sampler = DiffusersSampler(pipe, memory=mode, **call)
    slope, measured = slopes(sampler, sampler.init(1, seed=1).double(), width)
    assert math.isclose(slope, measured, rel_tol=tolerance), (slope, measured)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_same_in_all_modes(case):
    build, call, *_ = CASES[case]
    pipe = build().to(torch.float64)
    fast, *others = (
        gradient(sampler, sampler.init(1, seed=1).double())
        for sampler in (DiffusersSampler(pipe, memory=mode, **call) for mode in MODES)
    )
    for other in others:
        torch.testing.assert_close(other, fast, rtol=1e-8, atol=1e-14)


class ScaledNet(nn.Module):
    """A denoiser whose call depends on what stands around it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.scale, self.scales, self.table = 1.0, [1.0], {"all": 1.0}

    def forward(self, x):
        return self.inner(x).tanh() * self.scale * self.scales[0] * self.table["all"] * SCALE.get() * GLOBAL[0]


SCALE = contextvars.ContextVar("scale", default=1.0)
GLOBAL = [1.0]


@contextlib.contextmanager
def attribute(net):
    net.scale = 2.0
    yield
    net.scale = 1.0


@contextlib.contextmanager
def entry(net):
    net.scales[0], net.table["all"] = 2.0, 2.0
    yield
    net.scales[0], net.table["all"] = 1.0, 1.0


@contextlib.contextmanager
def hook(net):
    handle = net.inner.register_forward_hook(lambda module, args, result: 2 * result)
    forget_parts()  # hooks that were there when a run began
    yield
    handle.remove()


@contextlib.contextmanager
def replace(net):
    own = net.inner.forward
    net.inner.forward = lambda x: 2 * own(x)
    yield
    del net.inner.forward


@contextlib.contextmanager
def submodule(net):
    before, net.inner = net.inner, nn.Linear(3, 3)
    yield
    net.inner = before


@contextlib.contextmanager
def variable(net):
    token = SCALE.set(2.0)
    yield
    SCALE.reset(token)


@contextlib.contextmanager
def autocast(net):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


def pull_back(net, around, recompute):
    torch.manual_seed(1)
    x = torch.randn(2, 3, requires_grad=True)
    with around(net):
        out = recompute_call(net, Meter(), (x,), {}, module=net) if recompute else net(x)
    return torch.autograd.grad(out.square().sum(), x)[0]


@pytest.mark.parametrize("around", [attribute, entry, hook, replace, submodule, variable, autocast])
def test_whatever_a_call_depended_on_is_restored_for_its_repetition(around):
    torch.manual_seed(0)
    net = ScaledNet().requires_grad_(False)
    forget_parts()
    before = [dict(vars(part)) for part in net.modules()]
    torch.manual_seed(2)
    plain = pull_back(net, around, False)
    torch.manual_seed(2)
    assert torch.equal(pull_back(net, around, True), plain)
    assert [dict(vars(part)) for part in net.modules()] == before
    assert (net.scales, net.table) == ([1.0], {"all": 1.0})


def test_what_cannot_be_restored_is_detected_and_the_module_named():
    net, x = ScaledNet().requires_grad_(False), torch.ones(1, 3, requires_grad=True)
    out = recompute_call(net, Meter(), (x,), {}, module=net)
    GLOBAL[0] = 1.01
    try:
        with pytest.raises(GradientError, match=r"^expected ScaledNet to give the same output .* by 1\.0%.*'fast'"):
            torch.autograd.grad(out.sum(), x)
    finally:
        GLOBAL[0] = 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_difference(dtype):
    net, x = ScaledNet().requires_grad_(False).to(dtype), torch.ones(1, 3, dtype=dtype, requires_grad=True)
    out = recompute_call(net, Meter(), (x,), {}, module=net)
    GLOBAL[0] = 1 + 2 * torch.finfo(dtype).eps
    try:
        assert torch.autograd.grad(out.sum(), x)[0].any()
    finally:
        GLOBAL[0] = 1.0


def test_a_sampler_whose_denoiser_changes_between_call_and_gradient_says_so():
    net = ScaledNet()

    def sample(batch):
        x = torch.randn(batch, 3)
        GLOBAL[0] = 3.0
        x = net(x)
        GLOBAL[0] = 1.0
        return x

    sampler = FunctionSampler(sample, denoiser=net, recompute=True)
    with pytest.warns(NoisewardWarning, match="ScaledNet.*only a search can change them"):
        noise = sampler.init(1)
    with pytest.raises(GradientError, match="ScaledNet"):
        sampler(noise.requires_grad_())


@pytest.mark.parametrize("change", ["list", "dict"])
def test_a_call_that_fills_the_cache_it_is_given_keeps_its_activations(change):
    class CachingDenoiser(nn.Module):
        def forward(self, x, cache):
            if change == "list":
                cache.append(x)
                return x * len(cache)
            cache["last"] = x * 2
            return x + cache["last"]

    net, x = CachingDenoiser(), torch.ones(2, requires_grad=True)
    cache: Any = [] if change == "list" else {}
    meter = Meter()
    total = sum(recompute_call(net, meter, (x, cache), {}, module=net).sum() for _ in range(2))
    assert len(cache) == (2 if change == "list" else 1)
    assert torch.autograd.grad(total, x)[0].tolist() == ([3.0, 3.0] if change == "list" else [6.0, 6.0])
    assert meter.nfe.recomputed == 0


@pytest.mark.parametrize("hooked", [False, True])
def test_snapshots_hold_no_module_alive(hooked):
    net = ScaledNet()
    if hooked:
        net._old_forward = net.forward  # as accelerate's hooks keep it
    snapshot(net)
    gone = []
    weakref.finalize(net, gone.append, True)
    del net
    gc.collect()
    assert gone
