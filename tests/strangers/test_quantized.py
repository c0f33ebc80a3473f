"""Weights in few bits, by the packages that diffusers loads them with: gradients are those of the quantized network."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from noiseward import DiffusersSampler
from noiseward.errors import NoisewardWarning
from noiseward.samplers.memory import MODES
from tests.tiny import CALL, stable_diffusion


def replace_linear(pipe: Any, make: Any, *, multiple: int = 32) -> Any:
    """Linear layers of the UNet whose sizes are multiples of a block's, each replaced by what is made of it."""
    for part in list(pipe.unet.modules()):
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear and child.in_features % multiple == child.out_features % 32 == 0:
                setattr(part, name, make(child))
    return pipe


def torchao(config: str) -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    pipe = stable_diffusion()
    quantization.quantize_(pipe.unet, getattr(quantization, config)())
    return pipe


def quanto(**kinds: str) -> Any:
    package = pytest.importorskip("optimum.quanto")
    pipe = stable_diffusion()
    package.quantize(pipe.unet, **{name: getattr(package, kind) for name, kind in kinds.items()})
    package.freeze(pipe.unet)
    return pipe


def nf4() -> Any:
    bnb = pytest.importorskip("bitsandbytes")

    def make(linear: nn.Linear) -> nn.Module:
        made = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None, quant_type="nf4",
            compute_dtype=torch.float32,
        )  # fmt: skip
        made.load_state_dict(linear.state_dict())
        made.support_avx512bf16_for_cpu = False  # its layout for inference on such a processor has no gradient
        return made.to("cpu")

    return replace_linear(stable_diffusion(), make, multiple=64)


def gguf() -> Any:
    package = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = package.GGMLQuantizationType.Q8_0

    def make(linear: nn.Linear) -> nn.Module:
        made = GGUFLinear(linear.in_features, linear.out_features, linear.bias is not None, torch.float32)
        data = torch.from_numpy(package.quants.quantize(linear.weight.detach().numpy(), kind))
        made.weight, made.bias = GGUFParameter(data, quant_type=kind), linear.bias
        return made

    return replace_linear(stable_diffusion(), make)


BUILDS = {
    "torchao int8 weights": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao float8 weights": lambda: torchao("Float8WeightOnlyConfig"),
    "quanto int8 weights": lambda: quanto(weights="qint8"),
    "bitsandbytes NF4": nf4,
    "GGUF Q8_0": gguf,
}


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("build", BUILDS)
def test_gradients_agree_with_finite_differences_of_the_quantized_network(build, memory):
    pipe = BUILDS[build]()
    sampler = DiffusersSampler(pipe, memory=memory, eta=1.0, **CALL)
    noise = sampler.init(1, seed=1)
    assert torch.equal(sampler(noise, "a"), sampler.run_stock("a", seed=1))
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    leaf = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((sampler(leaf, "a") * weights).sum(), leaf)
    errors, sizes = [], []
    for seed in range(6):
        along = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
        along /= along.norm()
        with torch.no_grad():
            up, down = ((sampler(noise + sign * 0.1 * along, "a") * weights).sum() for sign in (1, -1))
        measured = float(up - down) / 0.2
        errors.append(float((gradient * along).sum()) - measured)
        sizes.append(measured)
    # Pixels that are clamped to [0, 1] on the way make finite differences of the plain network 2 % off as well.
    assert torch.tensor(errors).norm() < 0.03 * torch.tensor(sizes).norm()


@pytest.mark.parametrize("build", [
    lambda: torchao("Int8DynamicActivationInt8WeightConfig"), lambda: quanto(weights="qint8", activations="qint8"),
], ids=["torchao", "quanto"])  # fmt: skip
def test_rounded_activations_are_warned_of(build):
    with pytest.warns(NoisewardWarning, match="unet rounds its activations"):
        DiffusersSampler(build(), **CALL)


def test_weights_in_few_bits_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoisewardWarning)
        DiffusersSampler(torchao("Int8WeightOnlyConfig"), **CALL)
