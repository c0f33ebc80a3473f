"""The loop: budgets, statuses, frozen rows, and continuing from any step as if nothing had happened."""

import dataclasses
import math

import pytest
import torch
from torch import optim

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Move, Optimizer
from noiseward.noise.layout import Seeds
from noiseward.noise.regularize import Concentration, probability
from noiseward.optimizers.ascend import GradientAscent
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.cost import NFE, count_calls
from noiseward.toys import GaussianModel, Quadratic

f64 = torch.float64
TARGET = torch.tensor([2.0, -1.0], dtype=f64)
CALLS = 4  # of the denoiser, in one run of the sampler


def problem(reward=None, **kwargs):
    return Objective(GaussianModel(steps=CALLS, dtype=f64).sampler(), reward or Quadratic(TARGET), **kwargs)


def run(objective, start=2, *, lr=0.3, clock=None, update=optim.Adam, **budget):
    start = objective.sampler.init(start) if isinstance(start, int) else start
    optimizer = GradientAscent(update=update, lr=lr)
    clocks = {} if clock is None else {"clock": clock}
    return list(iterate(objective, start, optimizer=optimizer, budget=Budget(**budget), **clocks))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_n_steps_are_n_plus_1_evaluations_the_last_one_forward_only(count):
    steps = run(problem(), steps=count)
    assert [step.index for step in steps] == list(range(count + 1))
    assert [step.nfe for step in steps[:-1]] == [NFE(CALLS * k, CALLS * k) for k in range(1, count + 1)]
    assert steps[-1].nfe == NFE(forward=CALLS * (count + 1), backward=CALLS * count)
    assert [step.next_noise is None for step in steps] == [False] * count + [True]
    assert [step.grad_norm is None for step in steps] == [False] * count + [True]


def test_each_step_starts_from_the_next_noise_of_the_one_before():
    steps = run(problem(), steps=4)
    for before, after in zip(steps, steps[1:], strict=False):
        assert torch.equal(before.next_noise, after.noise) and not torch.equal(before.noise, after.noise)


def test_the_probability_of_a_step_is_that_of_its_noise():
    objective = problem()
    for step in run(objective, steps=3):
        assert torch.equal(step.probability, probability(step.noise, objective.sampler.layout))


def test_start_noise_is_left_as_it_was():
    objective = problem()
    start = objective.sampler.init(2).requires_grad_(True)
    before = start.detach().clone()
    last = run(objective, start, steps=2)[-1]
    assert torch.equal(start, before) and start.grad is None and not last.best.noise.requires_grad


def assert_equal(one, two, *, but=()):
    """The same step bit for bit, but for time and for named fields."""
    left, right = one.record(), two.record()
    for name in ("seconds", *but):
        del left[name], right[name]
    assert left == right
    for name in ("noise", "next_noise", "grad_norm"):
        if name not in but:
            a, b = getattr(one, name), getattr(two, name)
            assert a is b is None or torch.equal(a, b)
    assert torch.equal(one.evaluation.sample, two.evaluation.sample)
    for field in dataclasses.fields(one.best):
        assert torch.equal(getattr(one.best, field.name), getattr(two.best, field.name))
    if "state" not in but:
        assert one.state.keys() == two.state.keys()
        assert all(torch.equal(part, two.state[name]) for name, part in one.state.items())
    assert one.status == two.status or "status" in but


@pytest.mark.parametrize("update", [optim.SGD, optim.Adam, optim.Rprop])
@pytest.mark.parametrize("reward", [None, -1.0], ids=["all rows move", "a row is frozen on the way"])
def test_a_run_resumed_from_any_step_is_bit_for_bit_the_run_that_never_stopped(update, reward):
    objective = problem(regularizer=Concentration(0.1, block=2, permutations=3))
    whole = run(objective, 3, steps=8, update=update, reward=reward, lr=0.1)
    frozen = [Status.REWARD in step.status and Status.RUNNING in step.status for step in whole]
    assert any(frozen[:-1]) == (reward is not None)
    for k, step in enumerate(whole[:-1]):
        rest = run(problem(regularizer=objective.regularizer), step, steps=8, update=update, reward=reward, lr=0.1)
        assert len(rest) == len(whole) - k - 1
        for one, two in zip(whole[k + 1 :], rest, strict=True):
            assert_equal(one, two)


def test_a_run_continues_from_its_last_step_with_a_larger_budget_as_if_it_had_had_it_from_the_start():
    whole, part = run(problem(), steps=7), run(problem(), steps=4)
    rest = run(problem(), part[-1], steps=7)
    assert [step.index for step in rest] == [4, 5, 6, 7]
    for one, two in zip(whole[4:], rest, strict=True):
        assert_equal(one, two)


def test_continuing_from_the_last_step_without_a_larger_budget_only_evaluates_once_more():
    part = run(problem(), steps=3)
    (again,) = run(problem(), part[-1], steps=3)
    assert_equal(part[-1], again)


def test_rows_that_reached_their_reward_go_on_when_more_is_asked_for():
    objective = problem()
    part = run(objective, 2, steps=50, reward=-0.5)
    assert set(part[-1].status) == {Status.REWARD}
    rest = run(objective, part[-1], steps=200, reward=-0.01)
    assert set(rest[-1].status) == {Status.REWARD}
    assert part[-1].best.reward.max() < -0.01 <= rest[-1].best.reward.min()


def test_time_spent_before_counts_after_resuming():
    part = run(problem(), steps=2, clock=make_clock(1.0))
    rest = run(problem(), part[-2], seconds=part[-2].seconds, clock=make_clock(1.0))
    assert len(rest) == 1 and rest[0].status == (Status.SECONDS,) * 2


def make_clock(tick):
    """A clock that advances by `tick` whenever it is read."""
    now = 100.0

    def clock():
        nonlocal now
        now += tick
        return now

    return clock


class Chore:
    """A clock that advances only while a reward is computed, by `cost(k)` for evaluation k."""

    def __init__(self, cost):
        self.now, self.cost, self.count = 7.0, cost, 0

    def __call__(self):
        return self.now

    def reward(self):
        calls = []

        def fn(sample):
            calls.append(sample)
            if len(calls) != 2:  # the second call asks whether rows depend on each other
                self.now, self.count = self.now + self.cost(self.count), self.count + 1
            return -(sample - TARGET).square().sum(1)

        return FunctionReward(fn, name="slow")


@pytest.mark.parametrize(("seconds", "count"), [(0.5, 1), (2.0, 1), (4.6, 1), (4.7, 2), (11.0, 5)])
def test_no_step_begins_that_would_overrun_the_seconds_at_the_recent_pace(seconds, count):
    clock = Chore(lambda k: 2.0)
    steps = run(problem(clock.reward()), seconds=seconds, clock=clock)
    assert len(steps) == count + 1  # the first step's cost is not known before it is made
    assert [step.seconds for step in steps] == [2.0 * k for k in range(1, count + 2)]
    assert steps[-1].status == (Status.SECONDS,) * 2


def test_the_pace_is_that_of_the_slowest_recent_step():
    clock = Chore(lambda k: 8.0 if k == 1 else 1.0)
    steps = run(problem(clock.reward()), seconds=20.0, clock=clock)
    assert [step.pace[0] for step in steps[:6]] == [1.0, 8.0, 4.0, 2.0, 1.0, 1.0]
    assert steps[1].seconds == 9.0  # and there is room for another that slow, and a third
    assert 18.0 < steps[-1].seconds <= 20.0
    clock = Chore(lambda k: 8.0 if k == 1 else 1.0)
    assert len(run(problem(clock.reward()), seconds=19.0, clock=clock)) == 3  # here there is none


@pytest.mark.parametrize(("is_compiled", "count"), [(False, 1), (True, 16)])
def test_the_first_step_of_a_compiled_model_is_spent_time_and_no_pace(is_compiled, count, monkeypatch):
    net = torch.nn.Linear(1, 1)
    if is_compiled:
        net.compile(backend="eager")
    monkeypatch.setattr(type(problem().sampler), "modules", property(lambda self: {"net": net}))
    clock = Chore(lambda k: 100.0 if k == 0 else 2.0)
    steps = run(problem(clock.reward()), seconds=132.0, clock=clock)
    assert steps[0].seconds == 100.0  # counted in the time left
    assert len(steps) == count + 1
    assert steps[-1].seconds <= 132.0
    clock = Chore(lambda k: 2.0)
    rest = run(problem(clock.reward()), steps[-2], seconds=132.0, clock=clock)  # it compiles again, and knows the pace
    assert not is_compiled or len(rest) == 1


@pytest.mark.parametrize(("nfe", "count"), [(0, 1), (16, 1), (27, 1), (28, 2), (100, 8), (111, 8)])
def test_no_step_begins_that_would_overrun_the_denoiser_calls(nfe, count):
    steps = run(problem(), nfe=nfe)
    assert len(steps) == count + 1
    assert steps[-2].nfe.cost == 3 * CALLS * count
    assert steps[-1].nfe.cost <= nfe or count == 1
    assert steps[-1].status == (Status.NFE,) * 2


def test_the_first_limit_met_ends_the_run():
    assert run(problem(), steps=2, nfe=1000)[-1].status == (Status.STEPS,) * 2
    assert run(problem(), steps=100, nfe=40)[-1].status == (Status.NFE,) * 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"seconds": -0.1}, "seconds must be .*got -0.1"),
        ({"seconds": math.nan}, "seconds must be .*got nan"),
        ({"nfe": -5}, "nfe must be .*got -5"),
        ({}, "expected a limit, got none"),
        ({"reward": 1.0}, "expected a limit, got none"),
    ],
)
def test_bad_budgets_are_refused(limits, message):
    with pytest.raises(ArgumentError, match=message):
        Budget(**limits)


def test_steps_are_made_one_at_a_time_as_they_are_asked_for():
    objective = problem()
    steps = iterate(objective, objective.sampler.init(), optimizer=GradientAscent(), budget=Budget(steps=100))
    next(steps)
    with count_calls() as meter:
        next(steps)
    assert meter.nfe == NFE(CALLS, CALLS)


class Walk(Optimizer):
    """Moves at random, as seeds say."""

    def step(self, objective, noise, state, seeds):
        steps = [torch.randn(row.shape, generator=seeds.generator(k, "walk")) for k, row in enumerate(noise)]
        return Move(objective(noise), noise + torch.stack(steps), {})

    def check(self, objective):
        pass


@pytest.mark.parametrize(("given", "rows"), [(None, (0, 1)), (Seeds((5, 9)), (5, 9))])
def test_an_optimizers_randomness_is_that_of_each_row_at_each_step(given, rows):
    objective = problem()
    steps = list(iterate(objective, objective.sampler.init(2), optimizer=Walk(), budget=Budget(steps=3), seeds=given))
    for step in steps[:-1]:
        for row in range(2):
            generator = Seeds(rows, step=step.index).generator(row, "walk")
            move = torch.randn(objective.sampler.noise_shape, generator=generator)
            assert torch.equal(step.next_noise[row], step.noise[row] + move)


def test_a_record_is_plain_numbers_of_its_step():
    step = run(problem(regularizer=Concentration(block=2)), 2, steps=1)[0]
    record = step.record()
    assert record["index"] == 0 and record["nfe"] == {"forward": CALLS, "backward": CALLS, "recomputed": 0}
    assert record["terms"] == {"quadratic": record["reward"]}
    for row in range(2):
        assert record["value"][row] == record["reward"][row] - record["penalty"][row]
    assert record["grad_norm"] == step.grad_norm.tolist() and record["probability"] == step.probability.tolist()


def test_noise_that_does_not_fit_is_refused_before_anything_is_computed():
    with pytest.raises(ArgumentError, match="expected shape"):
        run(problem(), torch.zeros(2, 3, 2), steps=1)
