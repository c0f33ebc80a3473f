"""A target for P(z): a toy's constrained optimum at any scale of the reward, and the rules around it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget, Status
from noiseward.loop.collect import optimize
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.step import Best
from noiseward.noise.regularize import Concentration, NoRegularizer, adapt_multiplier, probability
from noiseward.optimizers.ascend import GradientAscent
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.function import FunctionSampler

SIZE, BLOCK, TARGET = 1024, 4, 0.1


def objective(scale=1.0, target: float | None = TARGET):
    """The sum of the noise itself. P(z) >= target allows a mean block of norm M, so at most m sqrt(k) M in all."""
    sampler = FunctionSampler(lambda batch: torch.randn(batch, SIZE))
    reward = FunctionReward(lambda sample: scale * sample.sum(1), name="sum")
    return Objective(sampler, reward, regularizer=Concentration(min_probability=target) if target else NoRegularizer())


def optimum() -> float:
    count = SIZE / BLOCK
    largest = math.sqrt(2 * BLOCK * math.log(2 / TARGET) / count)  # of M1: p1(M1) = target
    return count * math.sqrt(BLOCK) * largest


def ascend(problem, steps, rows=2, **more):
    start = problem.sampler.init(rows, seed=0)
    return iterate(problem, start, optimizer=GradientAscent(lr=0.03), budget=Budget(steps=steps, **more))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_constrained_optimum_is_reached_whatever_the_scale_of_the_reward(scale):
    problem = objective(scale)
    steps = list(ascend(problem, 120))
    best = steps[-1].best
    assert (best.probability >= TARGET).all()
    assert (0.85 * optimum() < best.reward / scale).all() and (best.reward / scale <= optimum()).all()
    torch.testing.assert_close(probability(best.noise, problem.sampler.layout), best.probability)


def test_without_a_minimum_probability_the_same_ascent_leaves_the_distribution():
    best = list(ascend(objective(target=None), 120))[-1].best
    assert (best.reward > 2 * optimum()).all() and (best.probability < 1e-9).all()


def test_the_weight_grows_while_the_target_is_missed_and_shrinks_while_there_is_room():
    steps = list(ascend(objective(), 40))
    for before, after in zip(steps[:-2], steps[1:-1], strict=True):
        was = before.multiplier
        missed = after.probability < TARGET
        assert torch.equal(after.multiplier > was, missed)
        ratio = after.multiplier / was
        assert (ratio >= 0.5 - 1e-6).all() and (ratio <= 4 + 1e-6).all()
    assert 0 < sum(int((step.probability < TARGET).sum()) for step in steps) < 80


def test_each_penalty_is_weighted_by_the_multiplier_of_its_step():
    problem = objective()
    steps = list(ascend(problem, 25))
    given = torch.ones(2)
    for step in steps:
        penalty = problem.regularizer(step.noise, problem.sampler.layout)
        torch.testing.assert_close(step.evaluation.penalty, given * penalty)
        given = step.multiplier
    assert steps[-1].next_noise is None and steps[-1].evaluation.penalty.max() > 0


def test_a_multiplier_follows_its_formula():
    likely = torch.tensor([0.1, 0.2, 0.05, 1e-9, 0.0, 1.0])
    found = adapt_multiplier(torch.full((6,), 3.0), likely, 0.1)
    expected = [3.0, 3 * 0.5**0.25, 3 * 2**0.25, 12.0, 12.0, 3 * 0.1**0.25]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_rows_have_multipliers_of_their_own_and_a_resumed_run_has_them_too():
    problem = objective()
    together = list(ascend(problem, 15, rows=3))
    start = problem.sampler.init(3, seed=0)
    for row in range(3):
        alone = list(iterate(problem, start[row : row + 1], optimizer=GradientAscent(lr=0.03), budget=Budget(steps=15)))
        torch.testing.assert_close(alone[-1].multiplier[0], together[-1].multiplier[row])
    again = list(iterate(problem, together[7], optimizer=GradientAscent(lr=0.03), budget=Budget(steps=15)))
    assert torch.equal(again[-1].noise, together[-1].noise)
    assert torch.equal(again[-1].best.noise, together[-1].best.noise)
    assert torch.equal(again[-1].multiplier, together[-1].multiplier)


def make_best(index, reward, likely, value=0.0):
    one = torch.ones(1)
    return Best(index * one, index * one, reward * one, value * one, likely * one, torch.tensor([index]), -one, -one)


@pytest.mark.parametrize(
    ("old", "new", "wins"),
    [
        ((1.0, 0.5), (2.0, 0.2), "new"),  # both meet it: the higher reward
        ((2.0, 0.2), (1.0, 0.5), "old"),
        ((1.0, 0.01), (0.5, 0.11), "new"),  # meeting it goes before any reward
        ((0.5, 0.11), (9.0, 0.09), "old"),
        ((5.0, 0.01), (1.0, 0.02), "new"),  # neither does: the more plausible
        ((1.0, 0.02), (5.0, 0.01), "old"),
        ((1.0, 0.1), (1.1, 0.1), "new"),  # the target itself meets it
    ],
)
def test_best_is_the_highest_reward_that_meets_the_target_else_the_highest_probability(old, new, wins):
    one = torch.tensor([0.1])
    chosen = make_best(1, *old).update(make_best(2, *new), torch.tensor([True]), min_probability=one.item())
    assert chosen.index.item() == {"old": 1, "new": 2}[wins]
    assert chosen.noise.item() == chosen.index.item() and chosen.reward.item() == pytest.approx(
        {"old": old, "new": new}[wins][0]
    )


def test_nothing_that_is_not_finite_or_not_allowed_becomes_the_best():
    old, how = make_best(1, 1.0, 0.05), {"min_probability": 0.1}
    assert old.update(make_best(2, 2.0, 0.5), torch.tensor([False]), **how).index.item() == 1
    assert old.update(make_best(2, math.nan, 0.5, math.nan), torch.tensor([True]), **how).index.item() == 1
    never = dataclasses.replace(old, value=torch.full((1,), -math.inf))
    assert never.update(make_best(2, 0.0, 0.01), torch.tensor([True]), **how).index.item() == 2


def test_the_target_reward_counts_only_where_the_minimum_probability_is_met():
    expected = 1.5 * optimum()  # out of reach within the target
    steps = list(ascend(objective(), 40, reward=expected))
    rewards = torch.stack([step.evaluation.reward for step in steps])
    assert Status.REWARD not in steps[-1].status
    reached = torch.stack([step.probability for step in steps])[rewards >= expected]
    assert (rewards < expected).all() or (reached < TARGET).all()
    low = optimize(
        objective(), objective().sampler.init(2, seed=0), optimizer=GradientAscent(lr=0.03),
        budget=Budget(steps=40, reward=0.5 * optimum()),
    )  # fmt: skip
    assert low.status == (Status.REWARD,) * 2 and min(low.probability) >= TARGET


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_target_that_is_no_probability_is_refused(target):
    with pytest.raises(ArgumentError, match="min_probability must be between 0 and 1, got"):
        Concentration(min_probability=target)


def test_a_target_needs_a_weight_to_start_from():
    with pytest.raises(ArgumentError, match="weight must be > 0 with min_probability, got 0"):
        Concentration(0.0, min_probability=0.1)
