"""Attention backends and compiled blocks: the same gradients, or a refusal by name."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from noiseward import ArgumentError, DiffusersSampler, ModelError, align
from noiseward.samplers.memory import MODES
from tests.families import flows
from tests.offloading import gradient
from tests.tiny import CALL, stable_diffusion

SHORT = {**CALL, "num_inference_steps": 2}
HERE = ("native", "_native_math", "_native_flash")  # that compute on a CPU
SAGE = [each.value for each in AttentionBackendName if "sage" in each.value]


@pytest.fixture(autouse=True)
def same_backend_after(monkeypatch):
    """`set_attention_backend` of a model sets diffusers' own default, too, for every model after it."""
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)


@pytest.fixture(scope="module")
def right():
    return gradient(flows.flux(), "fast", SHORT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", HERE)
def test_each_kind_of_torchs_attention_gives_the_gradient(backend, mode, right):
    pipe = flows.flux()
    pipe.transformer.set_attention_backend(backend)
    sample, found = gradient(pipe, mode, SHORT)
    torch.testing.assert_close(sample, right[0], rtol=0, atol=1e-5)
    assert (found - right[1]).norm() < 1e-4 * right[1].norm()


def choose(pipe, backend, monkeypatch, everywhere):
    if everywhere:  # as DIFFUSERS_ATTN_BACKEND, and attention_backend() around a call
        monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName(backend))
    else:
        pipe.transformer.transformer_blocks[0].attn.processor._attention_backend = AttentionBackendName(backend)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("backend", SAGE)
def test_attention_in_few_bits_has_no_gradient_and_is_refused(backend, everywhere, monkeypatch):
    pipe = flows.flux()
    choose(pipe, backend, monkeypatch, everywhere)
    with pytest.raises(ModelError, match=rf"transformer computes attention .* \({backend}\): set_attention_backend"):
        DiffusersSampler(pipe, **SHORT)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's own doing
@pytest.mark.parametrize("mode", MODES)
def test_blocks_that_are_compiled_give_the_gradient(mode, right):
    pipe = flows.flux()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    try:
        sample, found = gradient(pipe, mode, SHORT)
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(sample, right[0], rtol=0, atol=1e-5)
    assert (found - right[1]).norm() < 1e-4 * right[1].norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compile_is_an_option_for_the_blocks_that_repeat(model, monkeypatch):
    compiled, compile = [], torch.compile

    def compile_eagerly(call, *args, **kwargs):
        compiled.append(type(call.__self__).__name__)
        return compile(call, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    how = {"steps": 1, "progress": False, "device": "cpu", "memory": "low", "eta": 1.0, **SHORT}
    how |= {"method": "dno:guard=none"}
    try:
        solution = align(model, "a", "brightness", compile=True, **how)
    finally:
        torch.compiler.reset()
    plain = align(model, "a", "brightness", **how)
    assert set(compiled) == {"BasicTransformerBlock"}
    torch.testing.assert_close(solution.noise, plain.noise, rtol=0, atol=1e-4)
    with pytest.raises(ArgumentError, match="compile does not go with offload"):
        align(model, "a", "brightness", compile=True, offload="models", **how)


@pytest.mark.parametrize("mode", MODES)
def test_channels_last_gives_the_gradient(mode):
    pipe, plain = stable_diffusion(), stable_diffusion()
    for module in (pipe.unet, pipe.vae):
        module.to(memory_format=torch.channels_last)
    sample, found = gradient(pipe, mode, {**SHORT, "eta": 1.0})
    image, expected = gradient(plain, mode, {**SHORT, "eta": 1.0})
    torch.testing.assert_close(sample, image, rtol=0, atol=1e-5)
    assert (found - expected).norm() < 1e-3 * expected.norm()
