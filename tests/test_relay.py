"""One optimizer after the other: each does what it does alone, and together they get further than either."""

import math

import pytest
import torch

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.budget import Budget
from noiseward.loop.collect import optimize
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion
from noiseward.options.run import Settings
from noiseward.problem import prepare
from noiseward.rewards.reward import FunctionReward
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.tiny import CALL, stable_diffusion

f64 = torch.float64
CALLS = 4


def model(dim=3):
    return GaussianModel(steps=CALLS, dim=dim, dtype=f64)


def run(objective, optimizer, rows=2, **budget):
    return list(iterate(objective, objective.sampler.init(rows), optimizer=optimizer, budget=Budget(**budget)))


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_steps_are_by_the_first_optimizer_and_the_others_by_the_second_without_a_state(count):
    objective = Objective(model().sampler(), Quadratic(2.0))
    search, ascent = TrustRegion(6, 2), GradientAscent(lr=0.1)
    steps = run(objective, Relay(search, ascent, steps=count), steps=6)
    for one, two in zip(steps, run(objective, search, steps=count), strict=False):
        assert torch.equal(one.noise, two.noise)
    noise, state = steps[count].noise, {}
    for step in steps[count:]:
        assert torch.equal(step.noise, noise)
        move = ascent.step(objective, noise, state, Seeds((0, 1), step.index))
        noise, state = move.noise, move.state


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_resumed_from_any_step_is_bit_for_bit_the_run_that_never_stopped(count):
    objective = Objective(model().sampler(), Quadratic(0.3))
    relay = Relay(TrustRegion(6, 2), GradientAscent(lr=0.1), steps=count)
    whole = run(objective, relay, 3, steps=5)
    for k, step in enumerate(whole[:-1]):
        rest = list(iterate(objective, step, optimizer=relay, budget=Budget(steps=5)))
        assert all(torch.equal(one.noise, two.noise) for one, two in zip(whole[k + 1 :], rest, strict=True))


def test_on_a_bumpy_reward_it_gets_further_than_either_at_the_same_cost():
    """Bumps of height 1 along a slope: the ascend finds the next top, luck a good slope, and both a good top."""
    reward = FunctionReward(lambda x: ((6 * x).cos() + x).sum(1), name="bumps")
    objective = Objective(model(dim=8).sampler(), reward)
    start, budget = objective.sampler.init(64), Budget(nfe=600)
    found = {
        name: optimize(objective, start, optimizer=optimizer, budget=budget).reward
        for name, optimizer in {
            "search": BestOfN(16, chunk=4096),
            "ascent": GradientAscent(lr=0.03),
            "relay": Relay(BestOfN(16, chunk=4096), GradientAscent(lr=0.03)),
        }.items()
    }
    for other in ("search", "ascent"):
        ahead = found["relay"] - found[other]
        assert ahead.mean() > 4 * ahead.std() / math.sqrt(len(ahead))


def test_an_expensive_first_step_does_not_keep_the_budget_from_being_spent():
    objective = Objective(model().sampler(), Linear(1.0))
    relay = Relay(BestOfN(100, chunk=4096), GradientAscent(lr=0.1))
    steps = run(objective, relay, nfe=1000)
    assert steps[0].spent.cost == 101 * CALLS and 1000 - steps[-1].nfe.cost < 4 * CALLS
    assert max(step.spent.cost for step in steps[1:]) == 3 * CALLS


def test_both_are_asked_whether_they_fit():
    black_box = FunctionReward(lambda x: x.sum(1), differentiable=False, name="box")
    objective = Objective(model().sampler(), black_box)
    for pair in ((BestOfN(2), GradientAscent()), (GradientAscent(), BestOfN(2))):
        with pytest.raises(GradientError, match="black box"):
            run(objective, Relay(*pair), steps=1)
    with pytest.raises(ArgumentError, match="steps must be >= 1, got 0"):
        Relay(BestOfN(2), GradientAscent(), steps=0)


def test_align_tries_some_noises_first():
    pipe, call = stable_diffusion(), {**CALL, "num_inference_steps": 4}
    problem = prepare(pipe, "a", "brightness", Settings(steps=2, call=call), method="dno:best_of=3,lr=0.05")
    assert isinstance(problem.optimizer, Relay) and problem.optimizer.first.samples == 3
    assert problem.optimizer.then.ascent.lr == 0.05
