"""Walks: where they go, how their angle adapts, and what they never accept."""

import math

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget
from noiseward.loop.collect import optimize
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.plausible import Plausible
from noiseward.noise.layout import Seeds
from noiseward.optimizers.search import TrustRegion
from noiseward.optimizers.walk import Walk
from noiseward.rewards.reward import FunctionReward
from noiseward.toys import GaussianModel, Linear

f64 = torch.float64
BLACK = FunctionReward(lambda x: x.detach().sum(1), name="black", differentiable=False)


def run(objective, *, rows=4, steps):
    start = objective.sampler.init(rows, seed=list(range(rows)))
    made = iterate(objective, start, optimizer=Walk(), budget=Budget(steps=steps), seeds=Seeds(tuple(range(rows))))
    return list(made)


def test_a_step_costs_one_run_and_turns_by_the_angle():
    objective = Objective(GaussianModel(steps=4, dim=5000, dtype=f64).sampler(), BLACK)
    steps = run(objective, rows=2, steps=6)
    assert all(step.spent.cost == 4 for step in steps)
    for before, after in zip(steps[:-1], steps[1:], strict=True):
        one, two = before.state["center"][:, 0], after.noise[:, 0]
        torch.testing.assert_close(two.norm(dim=1), one.norm(dim=1))
        cosine = (one * two).sum(1) / one.norm(dim=1) ** 2
        torch.testing.assert_close(cosine, (1 - before.state["sine"] ** 2).sqrt(), rtol=0, atol=0.05)


def test_one_neighbor_in_five_succeeds_where_the_reward_is_linear():
    """The chance that a neighbor is higher falls with the angle, so that there is one at which it is a fifth."""
    objective = Objective(GaussianModel(steps=3, dim=100, dtype=f64).sampler(), BLACK)
    steps = run(objective, rows=8, steps=300)
    centers = torch.stack([step.state["center"] for step in steps[:-1]])
    successes = (centers[1:] != centers[:-1]).flatten(2).any(2).double().mean()
    assert successes == pytest.approx(math.log(1 / 0.9) / math.log(1.5 / 0.9), abs=0.03)
    values = torch.stack([step.state["value"] for step in steps[:-1]])
    assert (values.diff(dim=0) >= 0).all() and (values[-1] > values[0] + 5).all()


def test_what_fails_the_tests_is_never_a_center():
    objective = Objective(GaussianModel(steps=4, dim=64).sampler(), BLACK, plausible=Plausible(image=0.1))
    steps = run(objective, steps=60)
    start, failed = steps[0].noise, 0
    for step in steps[1:-1]:
        accepted = (step.state["center"] == step.noise).flatten(1).all(1) & (step.noise != start).flatten(1).any(1)
        passes = objective.plausible.passes(step.verdict.strict, step.verdict.image)
        assert passes[accepted].all()
        failed += int((~passes).sum())
    assert failed > 0 and (steps[-1].best.image[steps[-1].best.index > 0] >= 0.1).all()


def test_a_walk_gets_further_than_many_candidates_at_equal_cost():
    objective = Objective(GaussianModel(steps=4, dim=64).sampler(), BLACK)
    start, budget = objective.sampler.init(8), Budget(nfe=1200)
    walk, regions = (optimize(objective, start, optimizer=one, budget=budget) for one in (Walk(), TrustRegion()))
    assert walk.gain.mean() > regions.gain.mean()


def test_an_angle_is_neither_zero_nor_a_right_one():
    with pytest.raises(ArgumentError, match=r"sine must be in \[0.01, 0.95\], got 1.0"):
        Walk(1.0)
    flat = Objective(GaussianModel(steps=3, dim=8).sampler(), FunctionReward(lambda x: 0 * x.sum(1), name="flat"))
    sine = run(flat, steps=80)[-1].state["sine"]
    assert (sine == 0.01).all() and Linear(1.0).differentiable
