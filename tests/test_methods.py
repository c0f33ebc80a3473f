"""Methods under their papers' names: what they are made of, and that they optimize."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget
from noiseward.loop.collect import optimize
from noiseward.loop.objective import Objective
from noiseward.methods import DEFAULT_METHODS, ESTIMATORS, GUARDS, METHODS, PROJECTIONS, choose_method, read_method
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.project import NormProjection, StartOnly
from noiseward.noise.regularize import Concentration, NoRegularizer, Shell
from noiseward.optimizers.ascend import GradientAscent
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64


def objective(reward, regularizer=None, **changes):
    model = GaussianModel(**{"steps": 4, "dim": 8, "dtype": f64, **changes})
    return Objective(model.sampler(), reward, regularizer=regularizer), model


@pytest.mark.parametrize("text", sorted({*METHODS, *DEFAULT_METHODS}))
def test_every_method_raises_the_reward_of_a_toy(text):
    method = choose_method(text, Quadratic(1.0))
    assert (method.coarse is not None) == ("coarse" in text)
    problem, _ = objective(Quadratic(1.0), method.regularizer)
    solution = optimize(problem, problem.sampler.init(2), optimizer=method.optimizer, budget=Budget(steps=4))
    assert (solution.gain > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_paragraph_on_when_to_use_it_and_when_not(name):
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    own = next(part for part in page.split("\n\n") if part.startswith(f"**`{name}`**"))
    assert re.search(r"\bUse it\b", own) and re.search(r"\bNot\b", own)


def test_reno_is_nesterov_on_a_clipped_gradient_of_the_first_draw():
    method = choose_method("reno", Linear(50.0))
    problem, model = objective(Linear(50.0))  # a gradient far longer than 0.1, the penalty's far shorter
    noise = problem.sampler.init(2)
    before, state, moves = noise, {}, []
    for _ in range(2):
        move = method.optimizer.step(problem, before, state, None)
        moves.append(move.noise - before)
        before, state = move.noise, move.state
    direction = torch.full((2, 8), 0.1 / 8**0.5, dtype=f64)
    velocity = 0.0
    for move in moves:
        velocity = 0.9 * velocity + 1.0
        torch.testing.assert_close(move[:, 0], 5.0 * (1 + 0.9 * velocity) * direction)
        assert not move[:, 1:].any()
    assert isinstance(method.regularizer, Shell) and method.regularizer.weight == 0.01


def test_reno_holds_the_norm_of_the_noise():
    def norm(weight):
        method = choose_method(f"reno:weight={weight}", Linear(0.02))
        problem, _ = objective(Linear(0.02), method.regularizer, eta=0.0)
        solution = optimize(problem, problem.sampler.init(1), optimizer=method.optimizer, budget=Budget(steps=50))
        return float(solution.last.noise.norm())

    assert norm(1.0) < 4 < norm(0.0)  # Gaussian noise of 8 elements has a norm of 2.8


def test_arguments_of_a_method_reach_its_parts():
    reward = Quadratic(1.0)
    assert isinstance(choose_method("dno:guard=none", reward).regularizer, NoRegularizer)
    guarded = choose_method("dno:guard=concentration:target=0.2,block=2", reward).regularizer
    assert isinstance(guarded, Concentration) and (guarded.min_probability, guarded.block) == (0.2, 2)
    ascent = choose_method("dno:0.05,project=start+norm", reward).optimizer.ascent
    assert isinstance(ascent, GradientAscent) and ascent.lr == 0.05
    assert [type(part) for part in ascent.project] == [StartOnly, NormProjection]
    few = choose_method("dno:coarse=5,estimator=backprop:through=linear,steps=2", reward)
    assert few.coarse == 5 and (few.optimizer.ascent.estimator.through, few.optimizer.ascent.estimator.steps) == (
        "linear",
        2,
    )
    assert choose_method(None, reward).text == "auto:keep_seed=false,chunk=16"
    assert choose_method(METHODS["dno"](lr=0.1), reward).optimizer.ascent.lr == 0.1
    with pytest.raises(ArgumentError, match="method must be a name, a Recipe, a Method or an Optimizer, got 3"):
        choose_method(3, reward)


@pytest.mark.parametrize(
    "text", sorted({*METHODS, *DEFAULT_METHODS, "dno:estimator=hybrid2:samples=4,scale=0.1,lr=0.2"})
)
def test_the_text_of_a_method_is_the_method(text):
    assert read_method(read_method(text).text) == read_method(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dno:guard=concentration:target=0.1,block=8", "dno:guard=concentration:min_probability=0.1,block=8"),
        ("dno:guard=concentration: target = 0.1", "dno:guard=concentration:min_probability=0.1"),
        ("dno:estimator=annealed:moves=5,lr=0.2", "dno:estimator=annealed:until=5,lr=0.2"),
    ],
)
def test_earlier_names_of_arguments_are_the_same_method(old, new):
    assert read_method(old) == read_method(new)
    assert read_method(old).text == read_method(new).text
    assert METHODS["dno"](guard="shell: 0.1") == read_method("dno:guard=shell:0.1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rena", "unknown method 'rena'; did you mean 'reno'"),
        ("dno:rl=1", "method 'dno' has no argument 'rl'"),
        ("dno:lr=nan", "method 'dno': lr must be finite, got 'nan'"),
        ("dno:lr=0.1,lr=0.2", "has 'lr' twice"),
        ("dno:0.1,0.2", "expected KEY=VALUE, got '0.2' in method 'dno:0.1,0.2'"),
        ("best-of-n:samples=0", "samples must be >= 1, got '0'"),
        ("dno:lr=none", "method 'dno': lr must be a number, got 'none'"),
        ("dno-best:lr=0.1", "unknown method 'dno-best'; use 'dno:best_of=16'"),
        ("hybrid2:samples=4", "unknown method 'hybrid2'; use 'dno:estimator=hybrid2'"),
        ("fk:potential=min", "potential must be one of 'difference', 'max', got 'min'"),
    ],
)
def test_an_unknown_method_is_refused_in_one_line(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dno:estimator=", "unknown estimator ''; available: backprop"),
        ("dno:project=", "unknown projection ''; available: norm"),
        ("dno:project=norm+", "unknown projection ''; available: norm"),
        ("dno:guard=", "unknown guard ''; available: plausible, concentration"),
        ("dno:guard=shell:-1", "guard 'shell': weight must be a number >= 0, got -1"),
        ("dno:estimator=hybrid2:samples=0", "estimator 'hybrid2': samples must be a whole number >= 1, got 0"),
        ("dno:estimator=hybrid2:samples=٣", "estimator 'hybrid2': samples must be an integer, got '٣'"),
        ("dno:estimator=backprop:moves=3", "estimator 'backprop' has no argument 'moves'"),
    ],
)
def test_what_is_no_part_is_refused_in_one_line(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        choose_method(text, Quadratic(1.0))
    assert "\n" not in str(caught.value)


def test_every_part_that_can_be_named_is_there():
    for home in (*ESTIMATORS.values(), *GUARDS.values(), *PROJECTIONS.values()):
        module, _, name = home.partition(":")
        assert isinstance(getattr(importlib.import_module(f"noiseward.{module}"), name), type)


def test_the_first_draw_alone_moves():
    layout = Layout((Draw("start", (3,), "start"), Draw("step 1", (3,)), Draw("other", (3,), "other")))
    noise = torch.randn(2, 3, 3)
    moved = StartOnly().direction(noise, layout)
    assert torch.equal(moved[:, 0], noise[:, 0]) and not moved[:, 1:].any()
    assert StartOnly().noise(noise, layout) is noise
    with pytest.raises(ArgumentError, match="no first draw"):
        StartOnly().check(Layout((Draw("step 1", (3,)),)))


def test_the_page_says_what_is_compared_by_default():
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    said = page.partition("it compares eighteen:")[2].partition(". ")[0]
    assert re.findall(r"`([^`]+)`", said) == list(DEFAULT_METHODS)
