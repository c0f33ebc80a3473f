"""Langevin steps, on a linear-Gaussian sampler: the distribution that they settle in is known in closed form."""

import dataclasses
import math

import pytest
import torch

from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Optimizer
from noiseward.loop.plausible import Plausible
from noiseward.noise.layout import Seeds
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.langevin import Langevin, accept_log_ratio, propose
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.function import FunctionSampler
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
CHAINS = 800


def model(**changes):
    return GaussianModel(**{"steps": 3, "dim": 2, "dtype": f64, **changes})


def run(objective, optimizer, *, rows=CHAINS, steps):
    seeds = Seeds(tuple(range(rows)))
    start = objective.sampler.init(rows, seed=list(range(rows)))
    return list(iterate(objective, start, optimizer=optimizer, budget=Budget(steps=steps), seeds=seeds))


def test_chains_settle_in_the_tilted_gaussian_of_a_quadratic_reward():
    """r = -|x - c|^2 / 2, x = mean + w . z with |w| = sigma: along w, the precision is 1 + sigma^2 / tau."""
    toy, tau, center = model(), 0.5, torch.tensor([1.5, -1.0], dtype=f64)
    objective = Objective(toy.sampler(), FunctionReward(lambda x: -(x - center).square().sum(1) / 2, name="near"))
    chain = Langevin(temperature=tau, size=0.4)
    noise = run(objective, chain, steps=30)[-1].state["center"]
    weights = torch.as_tensor(toy.weights, dtype=f64)
    sigma = weights.norm()
    shift = objective.sampler(torch.zeros(1, *noise.shape[1:], dtype=f64))[0]
    along = torch.einsum("bkd,k->bd", noise, weights) / sigma
    precision = 1 + sigma**2 / tau
    mean = sigma * (center - shift) / tau / precision
    torch.testing.assert_close(along.mean(0), mean, rtol=0, atol=4 / math.sqrt(CHAINS * float(precision)))
    spread = torch.full((2,), float(1 / precision), dtype=f64)
    torch.testing.assert_close(along.var(0), spread, rtol=4 * math.sqrt(2 / CHAINS), atol=0)
    across = noise - along[:, None] * (weights / sigma)[None, :, None]
    assert across.var(0).sum() == pytest.approx(2 * (len(weights) - 1), rel=0.05)  # the prior, where nothing pulls


def test_a_linear_reward_moves_the_mean_and_rejects_nothing():
    toy, tau = model(), 0.7
    steps = run(Objective(toy.sampler(), Linear(1.0)), Langevin(temperature=tau, size=1.0), steps=8)
    for before, after in zip(steps[1:-2], steps[2:-1], strict=True):
        assert torch.equal(before.noise, before.state["center"])
        assert not torch.equal(after.noise, before.noise)
    gradient = steps[0].state["gradient"][0] / tau
    center = steps[-2].state["center"]
    torch.testing.assert_close(center.mean(0), gradient, rtol=0, atol=5 / math.sqrt(CHAINS))
    torch.testing.assert_close(center.var(0), torch.ones_like(gradient), rtol=0, atol=5 * math.sqrt(2 / CHAINS))


def test_the_ratio_is_that_of_detailed_balance():
    """p(z) q(z, z') over p(z') q(z', z), computed from the densities themselves."""
    generator = torch.Generator().manual_seed(0)
    old, fresh = (torch.randn(4, 3, 2, dtype=f64, generator=generator) for _ in range(2))
    tau, d = torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=f64), torch.tensor([0.1, 0.5, 1.0, 1.9], dtype=f64)

    def value(z):
        return torch.sin(z).flatten(1).sum(1), torch.cos(z)

    def log_density(here, there):
        mean = propose(here, value(here)[1], torch.zeros_like(here), temperature=tau, size=d)
        spread = (8 * d).sqrt() / (2 + d)
        target = value(here)[0] / tau - here.flatten(1).square().sum(1) / 2
        return target - ((there - mean).flatten(1) / spread[:, None]).square().sum(1) / 2

    new = propose(old, value(old)[1], fresh, temperature=tau, size=d)
    (v_old, g_old), (v_new, g_new) = value(old), value(new)
    found = accept_log_ratio(old, g_old, v_old, new, g_new, v_new, temperature=tau, size=d)
    torch.testing.assert_close(found, log_density(new, old) - log_density(old, new))


def test_a_lower_temperature_raises_the_reward_further():
    objective = Objective(model(dim=32).sampler(), Linear(1.0))
    gains = [
        run(objective, Langevin(tau, size=0.5), rows=8, steps=15)[-1].best.reward.mean() for tau in (4.0, 1.0, 0.2)
    ]
    assert gains[0] < gains[1] < gains[2]


def test_what_is_not_given_adapts():
    objective = Objective(model(dim=8).sampler(), Quadratic(2.0))
    steps = run(objective, Langevin(), rows=6, steps=60)
    before, after = steps[0].state, steps[-1].state
    assert (after["temperature"] < before["temperature"]).all()
    accepted = torch.stack([
        (b.state["center"] != a.state["center"]).flatten(1).any(1) for a, b in zip(steps[:-2], steps[1:-1], strict=True)
    ])  # fmt: skip
    assert 0.4 < accepted[20:].double().mean() < 0.8
    fixed = run(objective, Langevin(1.0, size=0.1), rows=2, steps=3)[-1].state
    assert fixed["temperature"].tolist() == [1.0, 1.0] and fixed["size"].tolist() == [0.1, 0.1]


def test_what_fails_the_tests_is_never_a_center():
    sampler = model(steps=6, dim=64, dtype=torch.float32).sampler()
    objective = Objective(sampler, Linear(1.0), plausible=Plausible(image=0.05))
    for step in run(objective, Langevin(0.02), rows=4, steps=25)[:-1]:
        verdict = objective.test(step.state["center"], None, torch.ones(4, dtype=torch.bool))
        start = (step.state["center"] == objective.sampler.init(4, seed=[0, 1, 2, 3])).flatten(1).all(1)
        assert (objective.plausible.passes(verdict.strict, verdict.image) | start).all()


def test_what_an_optimizer_left_untested_is_tested_before_it_is_the_best():
    """A chain rejects some proposals that score higher than the best; an untested image must not slip through."""

    class Careless(Optimizer):
        def step(self, objective, noise, state, seeds):
            move = GradientAscent(lr=0.3).step(objective, noise, state, seeds)
            return dataclasses.replace(move, verdict=objective.test(noise))

    sampler = model(steps=6, dim=64).sampler()
    objective = Objective(sampler, Linear(1.0), plausible=Plausible())
    steps, careful = (run(objective, one, rows=3, steps=8) for one in (Careless(), GradientAscent(lr=0.3)))
    assert all(torch.equal(a.best.noise, b.best.noise) for a, b in zip(steps, careful, strict=True))
    assert [step.spent for step in steps] == [step.spent for step in careful]
    assert (steps[-1].best.image[steps[-1].best.index > 0] >= 0.01).all()


def test_draws_that_may_not_change_stay():
    def sample(batch):
        torch.randn(batch, 3)  # not used: a dead draw
        return torch.randn(batch, 3)

    sampler = FunctionSampler(sample, torch.nn.Identity())
    steps = run(Objective(sampler, Linear(1.0)), Langevin(size=0.5), rows=2, steps=3)
    dead, alive = (torch.stack([sampler.layout.split(step.noise)[k] for step in steps]) for k in (0, 1))
    assert [draw.movable for draw in sampler.layout] == [False, True]
    assert (dead == dead[0]).all() and not (alive[1:] == alive[0]).flatten(1).all(1).any()
