"""Which models denoise: by name, by being told the time, or as the user says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noiseward import ArgumentError, DiffusersSampler, FunctionReward, ModelError, align
from noiseward.pipelines.denoisers import find_denoisers
from noiseward.samplers.cost import count_calls
from tests.families import priors
from tests.tiny import CALL, stable_diffusion

NORM = FunctionReward(lambda sample: sample.flatten(1).square().mean(1), name="norm")
CASES = {
    "Kandinsky 2.2's prior": (priors.kandinsky22_prior, {"num_inference_steps": 2}, ["prior"]),
    "Stable Cascade's prior": (
        priors.cascade_prior, {"height": 512, "width": 512, "num_inference_steps": 2}, ["prior"],
    ),
    "Stable Cascade's decoder": (
        priors.cascade_decoder, {"num_inference_steps": 2, "image_embeddings": priors.latents()}, ["decoder"],
    ),
    "Kandinsky 2.2, combined": (
        priors.kandinsky22_pair,
        {"height": 16, "width": 16, "num_inference_steps": 2, "prior_num_inference_steps": 2},
        ["unet", "prior_prior"],
    ),
}  # fmt: skip


class WithTimestep(nn.Module):
    def forward(self, x, timestep):
        return x


def names(pipe, found):
    return [next(name for name, part in pipe.components.items() if part is module) for module in found]


@pytest.mark.filterwarnings("ignore:`callback_steps` is deprecated")  # the combined pipeline's own call
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pipeline_whose_denoiser_has_another_name_is_driven(case):
    build, call, expected = case
    pipe = build()
    sampler = DiffusersSampler(pipe, **call)
    assert names(pipe, sampler._denoisers) == expected
    noise = sampler.init(1, seed=3)
    with count_calls() as meter:
        sample = sampler(noise, "a")
    assert meter.nfe.forward >= 2
    generator = torch.Generator().manual_seed(3)
    stock = pipe(prompt="a", generator=generator, output_type="pt", return_dict=False, **call)
    stock = stock if isinstance(stock, torch.Tensor) else stock[0]
    assert torch.equal(sample, sampler._range(stock))
    assert align(sampler, "a", NORM, steps=2, method="dno:lr=0.05", progress=False).gain.item() > 0


def test_models_that_take_a_timestep_are_found():
    modules = {"vae": nn.Linear(1, 1), "prior": WithTimestep(), "transformer": nn.Identity(), "text": nn.Identity()}
    assert find_denoisers("P", modules, None) == [modules["transformer"], modules["prior"]]
    assert find_denoisers("P", modules, "text") == [modules["text"]]
    assert find_denoisers("P", modules, ["text", "prior"]) == [modules["text"], modules["prior"]]


def test_where_none_is_found_the_remedy_is_named():
    with pytest.raises(ModelError, match="expected a model that is called with a timestep, got a, b; .*denoiser='...'"):
        find_denoisers("P", {"b": nn.Identity(), "a": nn.Identity()}, None)
    with pytest.raises(ArgumentError, match="P has no model 'unt' for denoiser=; did you mean 'unet'"):
        find_denoisers("P", {"unet": nn.Identity()}, "unt")


def test_a_denoiser_may_be_named():
    pipe = stable_diffusion()
    named, found = DiffusersSampler(pipe, denoiser="unet", **CALL), DiffusersSampler(pipe, **CALL)
    noise = named.init(1)
    assert torch.equal(named(noise, "a"), found(noise, "a"))
    assert named.with_call(num_inference_steps=2)._denoisers == [pipe.unet]
