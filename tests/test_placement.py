"""Where a reward is computed: the same scores and gradients, from other devices, precisions and less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noiseward import ArgumentError, DiffusersSampler, FunctionReward, WeightedSum, align
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import make_reward, parse_weighted
from noiseward.rewards.placement import Placed
from tests.holding import peak

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a duck", "a cat"]


def gradient(reward):
    leaf = IMAGES.clone().requires_grad_()
    scores = reward(leaf, PROMPTS)
    return scores.detach(), torch.autograd.grad(scores.sum(), leaf)[0]


@pytest.fixture(scope="module")
def clip():
    return make_reward("clip")


def test_recomputing_its_blocks_gives_the_same_gradient_from_less(clip):
    low, _ = parse_weighted("clip:recompute=true")
    assert isinstance(low, Placed) and low.name == "clip"
    for one, other in zip(gradient(clip), gradient(low), strict=True):
        assert torch.equal(one, other)
    models = [clip.model, low.reward.model]
    calls = []
    block = low.reward.model.vision_model.encoder.layers[0]
    with block.mlp.register_forward_hook(lambda *_: calls.append(1)):
        gradient(low)
    assert len(calls) == 2
    most, less = (peak(lambda each=each: gradient(each), models) for each in (clip, low))
    assert less < 0.5 * most


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_memory_modes_leave_a_reward_alone_and_recompute_is_its_own_and_goes_with_them(memory):
    """Of the block of a CLIP, calls are counted: one where its activations are kept, two where they are recomputed."""
    found = {}
    for text, times in (("clip", 1), ("clip:recompute=true", 2)):
        reward, _ = parse_weighted(text)
        owner = getattr(reward, "reward", reward)
        calls = []
        block = owner.model.vision_model.encoder.layers[0]
        sampler = DiffusersSampler(load_pipeline("stickers"), memory=memory, num_inference_steps=2)
        sampler.expect("a duck")
        noise = sampler.init(1, seed=3).requires_grad_()
        sample = sampler(noise, "a duck")
        with block.mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1)):
            score = reward(sample, ["a duck"])
            found[text] = torch.autograd.grad(score.sum(), noise)[0]
        assert len(calls) == times
    assert torch.equal(*found.values())


def test_in_bfloat16_scores_and_gradients_are_near(clip):
    half, _ = parse_weighted("clip:dtype=bfloat16")
    scores, found = gradient(half)
    right_scores, right = gradient(clip)
    assert next(half.reward.model.parameters()).dtype == torch.bfloat16
    assert scores.dtype == found.dtype == torch.float32
    torch.testing.assert_close(scores, right_scores, rtol=0, atol=0.01)
    assert torch.cosine_similarity(found.flatten(1), right.flatten(1)).min() > 0.98


def test_images_are_sent_to_its_device_and_scores_come_back():
    seen = []

    def note(images):
        seen.append(images.device.type)
        return torch.zeros(len(images), device="cpu")

    placed = Placed(FunctionReward(note, name="note"), device="meta")
    assert placed(IMAGES, None).device == IMAGES.device and seen == ["meta"]
    here = Placed(FunctionReward(lambda images: images.mean((1, 2, 3)), name="mean"), device="cpu")
    assert gradient(here)[1].any() and here.differentiable


def test_it_goes_with_other_arguments_in_a_sum_and_a_run():
    reward, weight = parse_weighted("clip:device=cpu,recompute=true,cutouts=2,weight=0.5,name=fit")
    assert (reward.name, weight) == ("fit", 0.5)
    total = WeightedSum({reward: weight, make_reward("brightness"): 1.0})
    solution = align("stickers", "a duck", total, steps=1, num_inference_steps=2, progress=False, watch=())
    assert set(solution.history[-1]["terms"]) == {"fit", "brightness"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clip:device=gpu", "device of reward 'clip' must be one that torch can use, as cpu or cuda:1, got 'gpu'"),
        ("clip:dtype=float8", "unknown dtype 'float8' of reward 'clip'"),
        ("brightness:dtype=bfloat16", "reward 'brightness' is computed in float32 alone; leave dtype out"),
        ("clip:recompute=maybe", "recompute of reward 'clip:recompute=maybe' must be true or false, got 'maybe'"),
    ],
)
def test_what_does_not_fit_is_one_line(text, says):
    with pytest.raises(ArgumentError, match=says.replace("(", r"\(")):
        parse_weighted(text)


def test_a_device_with_a_colon_is_one_argument(monkeypatch):
    made = []
    monkeypatch.setattr("noiseward.rewards.parse.Placed", lambda reward, device: made.append(device) or reward)
    parse_weighted("brightness:device=cuda:1,weight=2")
    assert made == ["cuda:1"]


def test_modules_without_blocks_are_left_alone():
    class Net(nn.Module):
        def forward(self, images):
            return images.mean((1, 2, 3))

    net = Net()
    reward = FunctionReward(lambda images: net(images), name="net")
    assert torch.equal(gradient(Placed(reward, recompute=True))[1], gradient(reward)[1])
