"""What diffusers overwrites and a gradient needs, done out of place; arrays kept as tensors; guardrails."""

import copy

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from noiseward import DiffusersSampler, GradientError, NoisewardWarning, align
from noiseward.pipelines.arrays import is_array_maker, keep_tensors, lead_with_channels
from noiseward.pipelines.checkers import list_removable
from noiseward.pipelines.in_place import add_experts_out_of_place, copy_inputs, writes_into_latents
from tests.catalog import CASES


def experts(dtype=torch.float32):
    from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

    torch.manual_seed(0)
    layer = MOEFeedForwardSwiGLU(dim=8, hidden_dim=8, num_routed_experts=4, num_activated_experts=2).eval()
    nn.init.normal_(layer.gate.weight)
    return layer.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_experts_give_the_same_bits_out_of_place(dtype):
    layer, tokens = experts(dtype), torch.randn(2, 9, 8).to(dtype)
    before = layer(tokens)
    add_experts_out_of_place(layer)
    assert torch.equal(layer(tokens), before)


def test_experts_have_a_gradient_out_of_place_and_none_in_place():
    layer = experts(torch.float64)
    tokens = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    plain = type(layer).moe_infer.__wrapped__
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        layer.moe_infer = lambda *args: plain(layer, *args)
        layer(tokens).sum().backward()
    add_experts_out_of_place(layer)
    assert torch.autograd.gradcheck(layer, tokens)


def test_a_copy_of_a_model_mixes_its_own_experts():
    layer = experts()
    add_experts_out_of_place(layer)
    other = copy.deepcopy(layer)
    for weight in other.experts.parameters():
        weight.zero_()
    tokens = torch.randn(1, 5, 8)
    assert not torch.equal(layer(tokens), other(tokens))
    torch.testing.assert_close(other(tokens), other.shared_experts(tokens))


@pytest.mark.parametrize("memory", ["fast", "balanced", "low"])
def test_experts_in_every_memory_mode(memory):
    case = CASES["HiDreamImagePipeline"]
    sampler = DiffusersSampler(case.build(), memory=memory, **case.call)
    sampler.expect(None)
    noise = sampler.init(1, seed=0).requires_grad_()
    (gradient,) = torch.autograd.grad(sampler(noise).sum(), noise)
    reference = DiffusersSampler(case.build(), memory="fast", **case.call)
    reference.expect(None)
    (expected,) = torch.autograd.grad(reference(noise).sum(), noise)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_module_that_is_shown_copies_may_have_its_input_overwritten():
    layer, state = nn.Linear(3, 3), torch.ones(1, 3, requires_grad=True) * 2
    layer.weight.requires_grad_()

    def step():
        moving = state.clone()
        result = layer(moving)
        moving[:, :1] = result[:, :1]
        return moving.sum() + result.sum()

    with pytest.raises(RuntimeError, match="inplace"):
        step().backward()
    with copy_inputs([layer]):
        step().backward()
    with pytest.raises(RuntimeError, match="inplace"):  # hooks are gone
        step().backward()


def test_which_pipelines_write_into_their_latents_or_make_arrays():
    built = {name: CASES[name].build() for name in ("Kandinsky5T2VPipeline", "StableDiffusionAdapterPipeline")}
    plain = CASES["StableDiffusionPipeline"].build()
    assert writes_into_latents(built["Kandinsky5T2VPipeline"]) and not writes_into_latents(plain)
    assert is_array_maker(built["StableDiffusionAdapterPipeline"]) and not is_array_maker(plain)


def test_tensors_are_kept_where_samples_would_become_arrays():
    images = torch.rand(2, 8, 8, 3, requires_grad=True)
    with keep_tensors():
        assert images.numpy() is images
        assert isinstance(torch.arange(4).numpy(), numpy.ndarray)
    assert isinstance(images.detach().numpy(), numpy.ndarray)
    assert lead_with_channels(images).shape == (2, 3, 8, 8)
    assert lead_with_channels(torch.rand(2, 3, 8, 3)).shape == (2, 3, 8, 3)


def test_a_guardrail_stays_and_a_search_works_where_a_gradient_is_refused():
    case = CASES["Cosmos2TextToImagePipeline"]
    pipe = case.build()
    assert list_removable(pipe) == []
    seen = []
    pipe.safety_checker.check_video_safety = lambda frames: seen.append(frames.shape) or frames
    call = {**case.call, "progress": False, "seed": 0}
    says = r"guardrail rewrites samples in 8 bits.*search"
    with pytest.warns(NoisewardWarning), pytest.raises(GradientError, match=says):
        align(pipe, None, "brightness", method="dno", steps=1, **call)
    with pytest.warns(NoisewardWarning, match="only a search can change them"):
        found = align(pipe, None, "brightness", method="best-of-n", steps=3, **call)
    assert seen and found.gain.item() > 0


def test_several_images_of_a_prompt_are_one_sample():
    case = CASES["MarigoldIntrinsicsPipeline"]
    sampler = DiffusersSampler(case.build(), **case.call)
    sampler.expect(None)
    with torch.no_grad():
        assert sampler(sampler.init(2, seed=0)).shape == (2, 2, 3, 16, 16)


def test_normals_are_divided_out_of_place_with_the_same_bits():
    from diffusers import MarigoldNormalsPipeline

    from noiseward.pipelines.in_place import list_out_of_place

    maps = torch.rand(2, 3, 4, 4) - 0.5
    maps[0, :, 0, 0] = 0
    ((name, ours),) = list_out_of_place(MarigoldNormalsPipeline)
    assert name == "normalize_normals"
    assert torch.equal(ours(maps), MarigoldNormalsPipeline.normalize_normals(maps.clone()))
    torch.testing.assert_close(ours(maps)[1], F.normalize(maps, dim=1)[1])
