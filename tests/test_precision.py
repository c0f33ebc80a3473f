"""Half precision: gradients that float16 would lose are scaled on the way, row by row, and agree with float32's."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from noiseward import DiffusersSampler, FunctionReward, FunctionSampler, Objective, Seeds
from noiseward.errors import NoisewardWarning
from noiseward.noise.layout import Draw, Layout
from noiseward.optimizers.gradient import Backprop
from noiseward.optimizers.guidance import DPS
from noiseward.optimizers.hybrid import Hybrid1, Hybrid2
from noiseward.rewards.parse import parse_rewards
from noiseward.samplers.memory import MODES
from noiseward.samplers.precision import pull_back, pull_scores
from noiseward.samplers.steps import run_guided
from tests.tiny import stable_diffusion

CALL = {"num_inference_steps": 3, "height": 32, "width": 32, "eta": 1.0}
# As small as the gradient of a mean over 3 x 1024 x 1024 pixels, on images a thousand times smaller.
MEAN = FunctionReward(lambda images: images.mean((1, 2, 3)) * 1e-3, name="mean")


def close(one, other):
    return torch.cosine_similarity(one.flatten(1), other.flatten(1), dim=1)


@pytest.fixture(scope="module")
def pipes():
    pipe = stable_diffusion()
    return {dtype: copy.deepcopy(pipe).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}


def direction(pipe, noise, estimator=None, memory="fast", reward=MEAN):
    objective = Objective(DiffusersSampler(pipe, memory=memory, **CALL), reward, "a")
    return (estimator or Backprop())(objective, noise, Seeds(tuple(range(len(noise)))))


@pytest.mark.parametrize("memory", MODES)
def test_the_gradient_in_float16_is_that_in_float32_to_rounding(pipes, memory):
    noise = DiffusersSampler(pipes[torch.float32], **CALL).init(2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, exact = direction(pipes[torch.float32], noise)
        evaluation, half = direction(pipes[torch.float16], noise, memory=memory)
    assert evaluation.sample.dtype == evaluation.reward.dtype == half.dtype == torch.float32
    assert (half == 0).float().mean() < 1e-3
    assert close(half, exact).min() > 0.999
    torch.testing.assert_close(half.norm(), exact.norm(), rtol=0.01, atol=0)


def test_without_scaling_nearly_all_of_it_would_be_lost(pipes):
    sampler = DiffusersSampler(pipes[torch.float16], **CALL)
    noise = sampler.init(1, seed=1).requires_grad_()
    sample = sampler(noise, "a").float()
    (plain,) = torch.autograd.grad(MEAN(sample, None).sum(), noise)
    assert (plain == 0).float().mean() > 0.9


def test_bfloat16_needs_no_scale(pipes):
    sampler = DiffusersSampler(pipes[torch.bfloat16], **CALL)
    assert not sampler.half and DiffusersSampler(pipes[torch.float16], **CALL).half
    noise = sampler.init(1, seed=1)
    _, exact = direction(pipes[torch.float32], noise)
    _, rough = direction(pipes[torch.bfloat16], noise)
    assert close(rough, exact).min() > 0.97


@pytest.mark.parametrize("estimator", [Hybrid1(4, 0.05), Hybrid2(4, 0.05)], ids=["hybrid 1", "hybrid 2"])
def test_estimators_that_pull_back_are_scaled_too(pipes, estimator):
    noise = DiffusersSampler(pipes[torch.float32], **CALL).init(1, seed=1)
    black = FunctionReward(lambda images: images.mean((1, 2, 3)), False, name="black")
    _, exact = direction(pipes[torch.float32], noise, estimator, reward=black)
    _, half = direction(pipes[torch.float16], noise, estimator, reward=black)
    assert (half == 0).float().mean() < 0.01
    assert close(half, exact).min() > 0.3  # scores of near candidates differ by little more than float16 can tell


def test_guides_are_scaled_too(pipes):
    ends = []
    for dtype in (torch.float32, torch.float16):
        sampler = DiffusersSampler(pipes[dtype], **CALL)
        objective = Objective(sampler, MEAN, "a")
        noise = sampler.init(1, seed=1)

        def score(sample, objective=objective, noise=noise):
            return objective.judge(noise, sample).reward

        end = run_guided(sampler, noise, "a", DPS(0.5), score=score, seeds=Seeds((0,)))
        ends.append(end.noise - noise)
    assert ends[0].norm() > 1e-3 and close(*ends).min() > 0.99


def test_rewards_see_float32(pipes):
    seen = []
    reward = FunctionReward(lambda images: seen.append(images.dtype) or images.mean((1, 2, 3)), name="seen")
    for dtype in (torch.float16, torch.bfloat16):
        Objective(DiffusersSampler(pipes[dtype], **CALL), reward, "a")(DiffusersSampler(pipes[dtype], **CALL).init(1))
    assert set(seen) == {torch.float32}
    assert parse_rewards(["brightness"]).differentiable


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e3, 1e9])
def test_every_row_has_a_scale_of_its_own_and_powers_of_two_change_no_digit(size):
    """Rows of very different gradients: none underflows because of another, none overflows."""
    z = torch.randn(3, 5, requires_grad=True, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 1e-3, 100.0]).half()
    x = (z.half() * weights[:, None]).float()
    v = torch.tensor([size, 1.0, 0.0])[:, None] * torch.ones(3, 5)
    found = pull_back(x, z, v, half=True)
    assert torch.equal(found[2], torch.zeros(5))
    torch.testing.assert_close(found, v * weights.float()[:, None], rtol=2e-3, atol=0)
    assert torch.equal(pull_back(*(lambda y: (y * 2.0, y, v))(z), half=True), 2 * v)


def test_an_overflow_lowers_the_scale_of_its_row_alone():
    z = torch.ones(2, 4, requires_grad=True)
    steep = torch.tensor([[1.0], [3e4]]).half()
    x = ((z.half() * steep) * 1e-2).float()
    found = pull_back(x, z, torch.ones(2, 4), half=True)
    assert found.isfinite().all()
    torch.testing.assert_close(found, (steep.float() * 1e-2).expand(2, 4), rtol=5e-3, atol=0)


def test_scores_are_scaled_from_high_to_low():
    x = torch.ones(2, 1000, dtype=torch.float16, requires_grad=True)
    (tiny,) = pull_scores((x.float().mean(1) * 1e-6), [x], half=True)
    (huge,) = pull_scores((x.float().sum(1) * 3e3), [x], half=True)
    torch.testing.assert_close(tiny, torch.full((2, 1000), 1e-9), rtol=1e-2, atol=0)
    torch.testing.assert_close(huge, torch.full((2, 1000), 3e3), rtol=1e-2, atol=0)


def test_a_gradient_that_is_mostly_lost_all_the_same_is_warned_of():
    layout = Layout((Draw("start", (100,), "start"), Draw("step 1", (100,))))
    z = torch.ones(1, 2, 100, requires_grad=True)
    lost = torch.where(torch.arange(100) < 80, 1e-7, 1.0).half()  # times 1e-7 once more: below what float16 holds
    x = (z[:, 0].half() * lost * lost).float() + 0 * z[:, 1]
    with pytest.warns(NoisewardWarning, match="80% of a gradient became zero in float16: use bfloat16 or float32"):
        pull_back(x, z, torch.ones(1, 100), half=True, layout=layout)


def test_a_sampler_of_ones_own_is_in_float16_where_its_denoiser_is():
    net = nn.Linear(3, 3).half()
    sampler = FunctionSampler(lambda batch: net(torch.randn(batch, 3).half()).float(), denoiser=net)
    assert sampler.half
    assert not FunctionSampler(lambda batch: torch.randn(batch, 3)).half
