"""Restarts: budgets are spent, no row depends on another, and every start is one that passes."""

from __future__ import annotations

import pytest
import torch

from noiseward import Budget, FunctionReward, GradientAscent, Objective, Plausible, Steady, iterate, optimize
from noiseward.loop.budget import Status
from noiseward.noise.layout import Seeds
from noiseward.optimizers.automatic import Automatic
from noiseward.optimizers.restarting import Restarting
from noiseward.toys import GaussianModel

HILLS = FunctionReward(lambda x: (5 * x[:, 0]).cos() + x[:, 0] / 2, name="hills")
ASCENT = Steady(GradientAscent(lr=0.1))


def problem(**tests):
    sampler = GaussianModel(steps=4, dim=4, dtype=torch.float64).sampler()
    return Objective(sampler, HILLS, plausible=Plausible(**{"strict": 1e-6, "image": 0.0, **tests}))


def test_a_budget_in_calls_is_spent_and_one_in_steps_ends_where_it_settles():
    objective = problem()
    start = objective.sampler.init(3)
    once = optimize(objective, start, optimizer=ASCENT, budget=Budget(nfe=4000))
    often = optimize(objective, start, optimizer=Restarting(ASCENT), budget=Budget(nfe=4000))
    short = optimize(objective, start, optimizer=Restarting(ASCENT), budget=Budget(steps=400))
    assert set(once.status) == set(short.status) == {Status.SETTLED} and set(often.status) == {Status.NFE}
    assert once.nfe.cost < 2000 and often.nfe.cost > 3900
    torch.testing.assert_close(short.reward, once.reward, rtol=0, atol=0)
    assert (often.reward > once.reward + 0.5).all()  # another hill: they are 2 pi / 5 apart


def test_what_a_row_gains_under_a_budget_does_not_depend_on_its_neighbors():
    objective = problem()
    start = objective.sampler.init(3)

    def run(rows):
        seeds = Seeds(tuple(rows))
        steps = iterate(objective, start[rows], optimizer=Restarting(ASCENT), budget=Budget(nfe=1500), seeds=seeds)
        return [step.noise for step in steps]

    together = run([0, 1, 2])
    for row in range(3):
        alone = run([row])
        assert len(alone) == len(together)
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=1e-12, atol=1e-12)


def test_a_run_continues_in_the_middle_of_scouting():
    objective = problem()
    start = objective.sampler.init(2)
    whole = list(iterate(objective, start, optimizer=Restarting(ASCENT), budget=Budget(nfe=2500)))
    scouting = [step for step in whole if (step.state.get("scouts", torch.zeros(1)) > 1).any()]
    assert scouting
    rest = list(iterate(objective, scouting[0], optimizer=Restarting(ASCENT), budget=Budget(nfe=2500)))
    assert torch.equal(rest[-1].best.noise, whole[-1].best.noise) and rest[-1].nfe == whole[-1].nfe


def test_an_ascent_begins_at_the_best_scout_with_a_full_step_and_no_momentum():
    objective = problem()
    steps = list(
        iterate(objective, objective.sampler.init(1), optimizer=Restarting(ASCENT, scouts=3), budget=Budget(nfe=2500))
    )
    first = next(index for index, step in enumerate(steps) if (step.state.get("scouts", torch.zeros(1)) == 3).any())
    scouts = [steps[first + 1 + number] for number in range(3)]
    best = max(scouts, key=lambda step: step.evaluation.value.item())
    after = scouts[-1].state
    assert torch.equal(after["center"], best.noise) and after["value"].item() == best.evaluation.value.item()
    assert after["scale"].item() in (0.4, 1.5) and after["ascent.update.step"].item() == 1


def test_scouts_that_fail_are_no_start():
    objective = problem(strict=0.3)
    steps = list(iterate(objective, objective.sampler.init(1), optimizer=Restarting(ASCENT), budget=Budget(nfe=6000)))
    failed = [step.noise for step in steps if step.verdict is not None and step.verdict.strict.item() < 0.3]
    assert len(failed) > 3
    used = [step.state["center"] for step in steps if step.next_noise is not None and step.state["value"].isfinite()]
    assert not any(torch.equal(one, center) for one in failed[1:] for center in used)


@pytest.mark.parametrize("given", [{"keep_seed": True}, {"explore": False}])
def test_who_keeps_the_start_gets_no_other(given):
    objective = problem()
    found = optimize(objective, objective.sampler.init(2), optimizer=Automatic(**given), budget=Budget(nfe=8000))
    assert set(found.status) == {Status.SETTLED}


def test_the_default_spends_what_it_is_given():
    objective = problem()
    found = optimize(objective, objective.sampler.init(2), optimizer=Automatic(), budget=Budget(nfe=3000))
    assert set(found.status) == {Status.NFE} and found.nfe.cost > 2900
