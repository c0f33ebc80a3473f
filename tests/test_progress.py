"""The progress bar: what it says where nobody looks, and when it says that a run is done."""

import io

from rich.console import Console

from noiseward.ascend import GradientAscent
from noiseward.budget import Budget
from noiseward.nested import Nested, coarse_to_fine
from noiseward.objective import Objective
from noiseward.optimize import iterate
from noiseward.progress import spent, watch
from noiseward.toys import GaussianModel, Linear

FEW, MANY = (GaussianModel(steps=steps) for steps in (2, 4))


def lines(steps, budget):
    out = io.StringIO()
    passed = list(watch(steps, budget, console=Console(file=out, width=200)))
    return passed, out.getvalue().splitlines()


def test_a_line_for_every_tenth_of_the_budget_and_the_steps_themselves():
    objective, budget = Objective(MANY.sampler(), Linear(1.0)), Budget(steps=40)
    how = {"optimizer": GradientAscent(lr=0.1), "budget": budget}
    passed, said = lines(iterate(objective, objective.sampler.init(2), **how), budget)
    assert [step.index for step in passed] == list(range(41))
    assert [line.split()[1] for line in said] == [str(4 * tenth) for tenth in range(11)]
    assert all("mean reward" in line and "P(z)" in line for line in said)
    assert "s left" in said[5] and "done in" not in said[5] and "done in" in said[-1]


def test_whichever_limit_is_nearest_counts():
    objective = Objective(MANY.sampler(), Linear(1.0))
    steps = list(iterate(objective, objective.sampler.init(1), optimizer=GradientAscent(), budget=Budget(steps=4)))
    assert [spent(step, Budget(steps=4)) for step in steps] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert spent(steps[1], Budget(steps=4, nfe=2 * steps[1].nfe.cost)) == 0.5


def test_a_run_that_takes_few_steps_first_is_not_done_at_its_start():
    few, many = (Objective(model.sampler(), Linear(1.0)) for model in (FEW, MANY))
    nested, budget = Nested(*(model.alphas[::-1] for model in (FEW, MANY))), Budget(steps=10)
    how = {"nested": nested, "optimizer": GradientAscent(lr=0.1), "first": Budget(steps=5), "budget": budget}
    _, said = lines(coarse_to_fine(few, many, many.sampler.init(1), **how), budget)
    assert "taking few steps first" in said[0] and "done" not in said[0]
    assert [line.split()[1] for line in said[1:]] == ["5", "6", "7", "8", "9", "10"] and "done in" in said[-1]
