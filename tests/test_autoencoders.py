"""An autoencoder that a pipeline widens while it decodes: its gradient comes back after it was narrowed again."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from noiseward import BestOfN, DiffusersSampler, FunctionReward, align
from tests.families import guided, unets

pytestmark = pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated")
SMALL = {"height": 16, "width": 16, "num_inference_steps": 2, "eta": 1.0}
MEAN = FunctionReward(lambda sample: sample.float().flatten(1).mean(1), name="mean")


def half(**config) -> object:
    """SDXL as it is published: float16, with an autoencoder that has to be widened."""
    pipe = unets.sdxl().to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True, **config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
def test_sdxl_in_float16_is_the_stock_image_with_the_gradient_of_float32(memory):
    pipe = half()
    sampler = DiffusersSampler(pipe, memory=memory, **SMALL)
    noise = sampler.init(1, seed=3).requires_grad_()
    sample = sampler(noise, "a")
    stock = pipe("a", generator=torch.Generator().manual_seed(3), output_type="pt", **SMALL).images
    assert torch.equal(sample, stock)
    weights = torch.randn(sample.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((sample.float() * weights).sum(), noise)
    wide = DiffusersSampler(half().to(torch.float32), **SMALL)
    (expected,) = torch.autograd.grad((wide(noise, "a") * weights).sum(), noise)
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999
    assert {part.dtype for part in pipe.vae.parameters()} == {torch.float16}
    assert "to" not in vars(pipe.vae) and "encode" not in vars(pipe.vae)


@pytest.mark.parametrize("method", ["dno:lr=0.05", BestOfN(6)])
def test_align_on_sdxl_in_float16(method):
    solution = align(half(), "a", MEAN, steps=2, method=method, progress=False, **SMALL)
    assert solution.gain.item() > 0


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
def test_an_autoencoder_that_is_widened_twice_in_a_call(memory):
    parts = half().components
    parts = {name: part for name, part in parts.items() if part is not None}
    pipe = StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False)
    call = {"image": guided.make_image(), "strength": 0.9, "num_inference_steps": 3, "eta": 1.0}
    sampler = DiffusersSampler(pipe, memory=memory, **call)
    noise = sampler.init(1, seed=3).requires_grad_()
    stock = pipe("a", generator=torch.Generator().manual_seed(3), output_type="pt", **call).images
    sample = sampler(noise, "a")
    assert torch.equal(sample, stock)
    assert torch.autograd.grad(sample.float().mean(), noise)[0].any()
    vae = pipe.vae
    sampler(noise, "a")
    assert pipe.vae is vae and vae.dtype == torch.float16
