"""What the benchmarks compare with computes the same, and what they count adds up."""

from __future__ import annotations

import pytest
import torch

from benchmarks import counted
from benchmarks.growth import line
from benchmarks.published import Published, penalty
from noiseward import Backprop, DiffusersSampler, FunctionReward, Objective, Seeds
from tests.families import unets
from tests.tiny import CALL, stable_diffusion

STEPS = CALL["num_inference_steps"]


@pytest.mark.parametrize("family", ["tiny", "sdxl"])
def test_the_published_loop_makes_our_image_and_our_gradient(family):
    pipe = stable_diffusion() if family == "tiny" else unets.sdxl()
    for part in (pipe.unet, pipe.vae):
        part.requires_grad_(False).eval()
    reward = FunctionReward(lambda images: images.mean((1, 2, 3)), name="brightness")
    sampler = DiffusersSampler(pipe, guidance_scale=5.0, eta=1.0, **CALL)
    loop = Published(pipe, lambda images: images.mean((1, 2, 3)), steps=STEPS, size=(8, 8))
    noise = sampler.init(1)
    torch.testing.assert_close(loop(noise[0]), sampler(noise, "a"), rtol=1e-4, atol=1e-5)
    leaf = noise[0].clone().requires_grad_()
    (theirs,) = torch.autograd.grad(loop.reward(loop(leaf)).sum(), leaf)
    _, ours = Backprop()(Objective(sampler, reward, "a"), noise, Seeds((0,)))
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.9999


def test_the_published_penalty_grows_as_noise_leaves_its_shell():
    noise = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    assert penalty(noise) < penalty(1.1 * noise) < penalty(1.3 * noise)


def test_counts_add_up():
    found = counted.count_model(unets.sd1, 8)
    forward = found["forward"][0]
    flops = {mode: flops for mode, (flops, _) in found["call"].items()}
    assert flops["balanced"] == flops["fast"] + forward
    assert flops["fast"] < found["published call"][0] <= flops["balanced"]  # torch's checkpoint stops a little early
    assert flops["balanced"] < flops["low"] <= flops["balanced"] + forward
    assert found["call"]["low"][1] < found["call"]["balanced"][1]
    few, many = (counted.steps_of(found, steps) for steps in (10, 20))
    assert many["fast"]["bytes"] - few["fast"]["bytes"] > 10 * found["kept by a call"]
    assert many["balanced"]["bytes"] - few["balanced"]["bytes"] < found["kept by a call"]
    without = few["published, without its decoding at every step"]["flops"]
    assert few["published"]["flops"] - without == 10 * found["decoder forward"][0]


def test_a_line_and_where_points_bend_from_it():
    straight = line([1.0, 2.0, 4.0], [3.0, 5.0, 9.0])
    assert straight == pytest.approx({"slope": 2.0, "start": 1.0, "far": 0.0, "bend": 1.0})
    bent = line([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])
    assert bent["bend"] == pytest.approx(3.0) and bent["far"] > 0.05
