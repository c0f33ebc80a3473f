"""Rows that depend on each other are found, whatever couples them, and sampled alone; rounding and chaos are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from noiseward import FunctionReward, FunctionSampler, GradientAscent, Hybrid2, NoisewardWarning, Objective, align
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.noise.layout import Seeds
from noiseward.optimizers.guidance import FKSteering
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.independence import coarsest_eps, row_dependence
from noiseward.samplers.steps import run_guided
from noiseward.toys import GaussianModel

f64 = torch.float64
MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")
DIM = 8


class Score(nn.Module):
    """The score of a mixture at some noise level, more or less."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(DIM + 1, 32), nn.Tanh(), nn.Linear(32, DIM)).to(dtype)

    def forward(self, x, sigma):
        level = torch.full_like(x[:, :1], sigma)
        return (self.net(torch.cat([x, level], 1)) - x) / (1 + sigma**2)


def predictor_corrector(score, batch, dtype=torch.float32, snr=0.2):
    """Song et al.'s sampler: a reverse-diffusion step, then Langevin's, whose length is set by norms over the batch."""
    sigmas = torch.linspace(5.0, 0.05, 6).tolist()
    x = sigmas[0] * torch.randn(batch, DIM, dtype=dtype)
    for now, after in zip(sigmas, sigmas[1:], strict=False):
        x = x + (now**2 - after**2) * score(x, now) + (now**2 - after**2) ** 0.5 * torch.randn_like(x)
        gradient, noise = score(x, after), torch.randn_like(x)
        lengths = [each.flatten(1).norm(dim=-1).mean() for each in (gradient, noise)]
        size = 2 * (snr * lengths[1] / lengths[0]) ** 2
        x = x + size * gradient + (2 * size) ** 0.5 * noise
    return x


def make_sampler(dtype=torch.float32, **how):
    score = Score(dtype)
    return FunctionSampler(lambda batch: predictor_corrector(score, batch, dtype), score, **how)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_corrector_that_takes_a_mean_over_the_batch_is_run_row_by_row(recompute):
    sampler = make_sampler(recompute=recompute)
    noise = sampler.init(3, seed=5)
    with count_calls() as meter:
        with pytest.warns(NoisewardWarning, match="a row depends on the others in its batch.*one at a time") as said:
            together = sampler(noise)
    assert len(said) == 1 and meter.nfe == NFE(10)
    alone = torch.cat([make_sampler()(noise[k : k + 1]) for k in range(3)])
    assert torch.equal(together, alone) and torch.equal(sampler(noise), alone)


def test_rewards_are_those_that_their_own_noise_gives():
    with pytest.warns(NoisewardWarning, match="one at a time"):
        solution = align(make_sampler(), None, MEAN, batch=3, steps=3, progress=False)
    again = make_sampler()
    for row in range(3):
        assert MEAN(again(solution.noise[row : row + 1]), None)[0] == solution.reward[row]
    assert (solution.gain > 0).all()


COUPLED = {
    "a mean": lambda x: x - 0.5 * x.mean(0),
    "the first row": lambda x: x + 0.1 * x[:1],
    "the last row": lambda x: x + 0.1 * x[-1:],
    "the row before": lambda x: x + 0.1 * x.roll(1, 0),
    "batch norm": lambda x: x if len(x) == 1 else (x - x.mean(0)) / x.std(0),
    "the number of rows": lambda x: x * len(x),
    "a norm": lambda x: x / x.norm() * len(x) ** 0.5,
}
COUPLED["a neighbor that is not finite"] = lambda x: x + torch.where(torch.tensor(len(x) > 1), torch.nan, 0.0)


@pytest.mark.parametrize("couple", COUPLED.values(), ids=COUPLED)
@pytest.mark.parametrize("dtype", [torch.float32, f64, torch.bfloat16])
def test_whatever_couples_rows_is_found_in_any_precision(couple, dtype):
    sampler = FunctionSampler(lambda batch: couple(torch.randn(batch, DIM, dtype=dtype)) + torch.randn(batch, DIM))
    noise = sampler.init(2)
    with pytest.warns(NoisewardWarning, match="one at a time"):
        together = sampler(noise)
    assert torch.equal(together, torch.cat([sampler(noise[:1]), sampler(noise[1:])]))


def test_candidates_that_are_near_to_each_other_are_no_excuse():
    sampler = FunctionSampler(lambda batch: torch.randn(batch, DIM) - 0.5 * torch.randn(batch, DIM).mean(0))
    black = FunctionReward(lambda sample: sample.mean(1), differentiable=False, name="black")
    objective = Objective(sampler, black)
    start = sampler.init(1)
    with pytest.warns(NoisewardWarning, match="one at a time"):
        Hybrid2(8, 1e-3)(objective, start, Seeds((0,)))
    assert sampler.alone


def test_the_check_is_made_once_per_batch_size_and_not_counted():
    made, net = [], nn.Tanh()

    def fn(batch):
        made.append(batch)
        return net(torch.randn(batch, 2))

    sampler = FunctionSampler(fn, net)
    noise = sampler.init(4)
    made.clear()
    with count_calls() as meter:
        for size in (4, 4, 1, 2, 2, 4, 3):
            sampler(noise[:size])
    assert made == [4, 1, 1, 4, 1, 2, 1, 1, 2, 4, 3, 1, 1] and meter.nfe == NFE(7)


def test_rounding_is_no_coupling():
    """A deep network in single and in half precision, whose batched products round otherwise than single ones."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        net = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(256, 256), nn.GELU())]).to(dtype)
        sampler = FunctionSampler(lambda batch, net=net, dtype=dtype: net(torch.randn(batch, 256, dtype=dtype)), net)
        noise = sampler.init(7)
        sampler(noise)
        assert sampler.alone is None


def test_chaos_is_no_coupling_and_coupling_is_seen_in_spite_of_it():
    """Rounding grown ten thousand times is not blamed on neighbors: a row moved by rounding moves as far."""
    generator = torch.Generator().manual_seed(0)
    batch, alone, nudged = (torch.randn(3, 50, generator=generator) for _ in range(3))
    alone = batch[-1:] + 0.02 * alone[:1]
    assert row_dependence(batch, alone, lambda: alone + 0.02 * nudged[:1], 1e-7) is None
    assert row_dependence(batch, alone, lambda: alone + 1e-4 * nudged[:1], 1e-7) == pytest.approx(0.014, rel=0.3)


def test_the_coarsest_precision_counts():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert coarsest_eps([torch.float32, torch.bfloat16, torch.int64], cpu) == torch.finfo(torch.bfloat16).eps
    assert coarsest_eps([torch.float32], cuda) == 1e-3 and coarsest_eps([f64], cuda) == torch.finfo(f64).eps


def test_a_guided_run_is_not_compared_with_one_that_is_not():
    sampler = GaussianModel(steps=4).sampler()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_guided(sampler, sampler.init(4), None, FKSteering(2), score=lambda x: x.sum(1), seeds=Seeds((0, 1)))


def test_a_well_behaved_sampler_gives_the_bits_it_gave():
    score = Score()

    def fn(batch):
        x = torch.randn(batch, DIM)
        for sigma in (3.0, 1.0, 0.1):
            x = x + score(x, sigma) + sigma * torch.randn(batch, DIM)
        return x

    sampler, budget = FunctionSampler(fn, score), Budget(steps=3)
    noise = sampler.init(3)
    *_, last = iterate(Objective(sampler, MEAN), noise, optimizer=GradientAscent(lr=0.1), budget=budget)
    assert sampler.alone is None
    noise, parts = last.noise, sampler.layout.split(last.noise)
    with torch.no_grad():
        x = parts[0].clone()
        for sigma, part in zip((3.0, 1.0, 0.1), parts[1:], strict=True):
            x = x + score(x, sigma) + sigma * part
    assert torch.equal(last.evaluation.sample, x)
