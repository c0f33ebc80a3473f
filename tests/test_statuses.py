"""Why rows stop: each by itself, frozen with its best, while its neighbors continue unmoved."""

import math

import pytest
import torch
from torch import optim

from noiseward.errors import RewardError
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.optimizers.ascend import GradientAscent
from noiseward.rewards.reward import FunctionReward
from noiseward.toys import GaussianModel, Quadratic

f64 = torch.float64
TARGET = torch.tensor([2.0, -1.0], dtype=f64)


def problem(reward=None):
    return Objective(GaussianModel(steps=4, dtype=f64).sampler(), reward or Quadratic(TARGET))


def run(objective, start=2, *, lr=0.3, update=optim.Adam, **budget):
    start = objective.sampler.init(start) if isinstance(start, int) else start
    return list(iterate(objective, start, optimizer=GradientAscent(update=update, lr=lr), budget=Budget(**budget)))


def test_a_row_that_reaches_the_target_reward_stops_and_the_others_continue():
    steps = run(problem(), 3, steps=60, reward=-0.3)
    reached = [next(k for k, step in enumerate(steps) if step.status[row] is Status.REWARD) for row in range(3)]
    assert len(set(reached)) > 1  # not all at once
    for row, k in enumerate(reached):
        assert all(step.evaluation.reward[row] < -0.3 for step in steps[:k])
        assert all(torch.equal(step.noise[row], steps[k].noise[row]) for step in steps[k:])
        assert steps[-1].best.index[row] == k and steps[-1].best.reward[row] >= -0.3
    assert len(steps) == max(reached) + 1  # and with the last of them the run ends


def test_a_frozen_rows_state_stays_as_it_was():
    steps = run(problem(), 3, steps=60, reward=-0.3)
    k = next(k for k, step in enumerate(steps) if Status.REWARD in step.status)
    row = steps[k].status.index(Status.REWARD)
    for step in steps[k:-1]:
        for name, part in step.state.items():
            assert torch.equal(part[row], steps[k].state[name][row])


def test_statuses_at_the_end_say_why_each_row_stopped():
    steps = run(problem(), 3, steps=len(run(problem(), 3, steps=60, reward=-0.3)) - 2, reward=-0.3)
    assert {Status.REWARD, Status.STEPS} == set(steps[-1].status)
    assert all(status is Status.RUNNING for status in steps[0].status)


def spoil(fn):
    """The quadratic reward plus `fn(zero)` in rows whose first coordinate exceeds 1; zero has a gradient."""

    def reward(sample):
        rows = [-(x - TARGET).square().sum() + (fn(x[0] - x[0].detach()) if x[0] > 1 else 0) for x in sample]
        return torch.stack(rows)

    return FunctionReward(reward, name="spoiled")


SPOILED = {
    "nan reward": spoil(lambda zero: zero + math.nan),
    "infinite reward": spoil(lambda zero: zero + math.inf),
    "negative infinite reward": spoil(lambda zero: zero - math.inf),
    "infinite gradient": spoil(lambda zero: zero.sqrt()),
    "nan gradient": spoil(lambda zero: zero.sqrt() * 0),
    "gradient too long for its norm": spoil(lambda zero: 1e200 * zero),
}


@pytest.mark.parametrize("update", [optim.Adam, optim.Rprop])
@pytest.mark.parametrize("reward", SPOILED.values(), ids=SPOILED)
def test_a_row_that_turns_non_finite_is_frozen_with_its_best_and_its_neighbors_do_not_notice(reward, update):
    objective = problem(reward)
    start = objective.sampler.init(3)
    start[0] += 0.2  # so that it is the first to get there
    steps = run(objective, start, steps=14, update=update, lr=0.05)
    k = next(k for k, step in enumerate(steps) if Status.NONFINITE in step.status)
    row = steps[k].status.index(Status.NONFINITE)
    assert 0 < k < 14 and steps[k].status.count(Status.RUNNING) > 0
    assert all(step.status[row] is Status.NONFINITE for step in steps[k:])
    assert all(torch.equal(step.noise[row], steps[k].noise[row]) for step in steps[k:])
    best = steps[-1].best
    assert best.reward[row].isfinite() and best.index[row] in (k - 1, k)
    assert torch.equal(best.noise[row], steps[best.index[row]].noise[row])
    other = (row + 1) % 3
    alone = run(problem(reward), start[other : other + 1], steps=14, update=update, lr=0.05)
    for one, two in zip(steps, alone, strict=False):
        torch.testing.assert_close(one.noise[other], two.noise[0], rtol=1e-12, atol=1e-12)


def test_a_step_to_infinite_noise_is_refused():
    reward = FunctionReward(lambda x: x.sum(1) * torch.tensor([1e15, 1e-30]), name="steep")
    objective = Objective(GaussianModel(steps=4).sampler(), reward)  # in float32
    start = objective.sampler.init(2)
    optimizer = GradientAscent(update=optim.SGD, lr=1e30, max_norm=None)
    first, *_, last = iterate(objective, start, optimizer=optimizer, budget=Budget(steps=2))
    assert first.grad_norm.isfinite().all()
    assert first.status == (Status.NONFINITE, Status.RUNNING) and last.status == (Status.NONFINITE, Status.STEPS)
    assert torch.equal(last.noise[0], start[0]) and not torch.equal(last.noise[1], start[1])


def test_a_row_without_one_finite_number_has_no_best_and_the_others_do():
    objective = problem()
    start = objective.sampler.init(2)
    start[0, 0, 0] = math.nan
    last = run(objective, start, steps=3)[-1]
    assert last.status == (Status.NONFINITE, Status.STEPS)
    assert last.best.reward[0] == -math.inf and last.best.reward[1] > -10
    assert last.probability[0] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_in_any_row_at_the_start_is_an_error(value):
    objective = problem(FunctionReward(lambda x: x.sum(1) * value, name="broken"))
    with pytest.raises(RewardError, match=f"'broken' must be .* got -?{value} for every row at the start"):
        run(objective, steps=2)


def test_when_the_last_row_turns_non_finite_the_run_ends():
    steps = run(problem(SPOILED["nan reward"]), 1, steps=100, lr=0.1)
    assert len(steps) < 100 and steps[-1].status == (Status.NONFINITE,) and steps[-1].next_noise is None


def test_the_target_reward_may_be_reached_with_an_undefined_gradient():
    peak = FunctionReward(lambda x: (x - x.detach()).sum(1).sqrt() * 0, name="peak")
    (only,) = run(problem(peak), 2, steps=5, reward=-0.1)
    assert only.status == (Status.REWARD,) * 2


def test_every_status_says_something_else():
    assert len({status.value for status in Status}) == len(Status) == len([s for s in Status if len(s.value) > 10])
