"""Methods under their papers' names: what they are made of, and that they climb."""

import re
from pathlib import Path

import pytest
import torch

from noiseward.choose import SEARCHES
from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget
from noiseward.loop.objective import Objective
from noiseward.loop.solution import optimize
from noiseward.methods import METHODS, named, reno
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.project import StartOnly
from noiseward.noise.regularize import Concentration, NoRegularizer, Shell
from noiseward.optimizers.ascend import GradientAscent
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64


def objective(reward, regularizer=None, **changes):
    model = GaussianModel(**{"steps": 4, "dim": 8, "dtype": f64, **changes})
    return Objective(model.sampler(), reward, regularizer=regularizer), model


@pytest.mark.parametrize("name", METHODS)
def test_every_method_climbs_a_toy(name):
    method = named(name)
    assert (method.coarse is not None) == (name == "dno-few")
    problem, _ = objective(Quadratic(1.0), method.regularizer)
    solution = optimize(problem, problem.sampler.init(2), optimizer=method.optimizer, budget=Budget(steps=4))
    assert (solution.gain > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_paragraph_on_when_to_use_it_and_when_not(name):
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    own = next(part for part in page.split("\n\n") if part.startswith(f"**`{name}`**"))
    assert re.search(r"\bUse it\b", own) and re.search(r"\bNot\b", own)


def test_reno_is_nesterov_on_a_clipped_gradient_of_the_first_draw():
    method = reno()
    problem, model = objective(Linear(50.0))  # a gradient far longer than 0.1, the penalty's far shorter
    noise = problem.sampler.init(2)
    before, state, moves = noise, {}, []
    for _ in range(2):
        _, after, state = method.optimizer.step(problem, before, state, None)
        moves.append(after - before)
        before = after
    direction = torch.full((2, 8), 0.1 / 8**0.5, dtype=f64)
    velocity = 0.0
    for move in moves:
        velocity = 0.9 * velocity + 1.0
        torch.testing.assert_close(move[:, 0], 5.0 * (1 + 0.9 * velocity) * direction)
        assert not move[:, 1:].any()
    assert isinstance(method.regularizer, Shell) and method.regularizer.weight == 0.01


def test_reno_holds_the_norm_of_the_noise():
    def norm(weight):
        method = named(f"reno:weight={weight}")
        problem, _ = objective(Linear(0.02), method.regularizer, eta=0.0)
        solution = optimize(problem, problem.sampler.init(1), optimizer=method.optimizer, budget=Budget(steps=50))
        return float(solution.last.noise.norm())

    assert norm(1.0) < 4 < norm(0.0)  # Gaussian noise of 8 elements has a norm of 2.8


def test_names_stand_for_their_settings():
    assert isinstance(named("dno").regularizer, NoRegularizer)
    guarded = named("dno-guarded:target=0.2").regularizer
    assert isinstance(guarded, Concentration) and guarded.target == 0.2
    ascent = named("dno-start:lr=0.05").optimizer
    assert isinstance(ascent, GradientAscent) and isinstance(ascent.project[0], StartOnly) and ascent.lr == 0.05
    few = named("dno-few:steps=5,through=linear")
    assert few.coarse == 5 and few.optimizer.estimator.through == "linear"
    with pytest.raises(ArgumentError, match="unknown method 'rena'; did you mean 'reno'"):
        named("rena")


def test_align_knows_guided_runs_by_the_same_names():
    assert {"dps", "lgd", "fk"} <= set(SEARCHES) & set(METHODS)


def test_the_first_draw_alone_moves():
    layout = Layout((Draw("start", (3,), "start"), Draw("step 1", (3,)), Draw("other", (3,), "other")))
    noise = torch.randn(2, 3, 3)
    moved = StartOnly().direction(noise, layout)
    assert torch.equal(moved[:, 0], noise[:, 0]) and not moved[:, 1:].any()
    assert StartOnly().noise(noise, layout) is noise
    with pytest.raises(ArgumentError, match="no first draw"):
        StartOnly().check(Layout((Draw("step 1", (3,)),)))
