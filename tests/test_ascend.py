"""Gradient ascent: the steps of torch's own optimizers, row by row, up to optima that are known."""

import functools
import math

import pytest
import torch
from torch import optim

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Seeds
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.gradient import Backprop
from noiseward.rewards.reward import FunctionReward
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
CLAMPED = FunctionReward(lambda x: -(x[:, 0] - 1).abs().clamp(min=0.2), name="clamped")
TARGET = torch.tensor([2.0, -1.0, 0.5], dtype=f64)
FACTORIES = {
    "SGD": optim.SGD,
    "momentum": functools.partial(optim.SGD, momentum=0.9, nesterov=True),
    "Adam": optim.Adam,
    "AMSGrad": functools.partial(optim.Adam, amsgrad=True),
    "AdamW": functools.partial(optim.AdamW, weight_decay=0),
    "Adamax": optim.Adamax,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "RMSprop": optim.RMSprop,
    "Rprop": optim.Rprop,
    "Adagrad": optim.Adagrad,
    "Adadelta": functools.partial(optim.Adadelta, rho=0.5),
    "ASGD": optim.ASGD,
}


def toy(eta=1.0):
    return GaussianModel(steps=5, eta=eta, dim=3, dtype=f64)


def ascend(objective, start, steps, optimizer):
    return list(iterate(objective, start, optimizer=optimizer, budget=Budget(steps=steps)))


@pytest.mark.parametrize("update", FACTORIES.values(), ids=FACTORIES)
def test_a_rows_steps_are_those_of_one_torch_optimizer(update):
    objective = Objective(toy().sampler(), Quadratic(TARGET))
    start = objective.sampler.init(2)
    steps = ascend(objective, start, 12, GradientAscent(update=update, lr=0.1, max_norm=None))
    for row in range(2):
        leaf = start[row : row + 1].clone().requires_grad_(True)
        optimizer = update([leaf], lr=0.1)
        for step in steps[1:]:
            optimizer.zero_grad()
            (-objective(leaf).value.sum()).backward()
            optimizer.step()
            torch.testing.assert_close(step.noise[row], leaf.detach()[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_optimizer_reaches_the_maximum_of_a_quadratic(name):
    objective = Objective(GaussianModel(steps=2, dim=3, dtype=f64).sampler(), Quadratic(TARGET))
    rate = {"Adadelta": 60.0, "SGD": 1.0, "ASGD": 1.0, "Adagrad": 0.7, "RAdam": 1.5, "Adamax": 0.4}.get(name, 0.2)
    optimizer = GradientAscent(update=FACTORIES[name], lr=rate, max_norm=None)
    steps = ascend(objective, objective.sampler.init(1), 40, optimizer)
    assert steps[0].evaluation.reward < -0.5
    assert steps[-1].best.reward > -0.02


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_plain_ascent_on_a_linear_reward_changes_the_noise_by_rate_times_weights_each_step(eta):
    model, slope, rate = toy(eta), torch.tensor([1.0, -2.0, 0.5], dtype=f64), 0.3
    objective = Objective(model.sampler(), Linear(slope))
    start = objective.sampler.init(2)
    move = rate * model.weights[:, None] * slope
    for step in ascend(objective, start, 5, GradientAscent(update=optim.SGD, lr=rate, max_norm=None)):
        torch.testing.assert_close(step.noise, start + step.index * move, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_plain_ascent_on_a_quadratic_ends_at_the_nearest_noise_that_reaches_the_target(eta):
    model = toy(eta)
    sampler, strength = model.sampler(), model.weights.square().sum()
    z = sampler.init(2, seed=3)
    near = z + torch.einsum("k,bd->bkd", model.weights, TARGET - sampler(z)) / strength
    rate = 0.5 / strength.item()  # halves the distance at every step
    optimizer = GradientAscent(update=optim.SGD, lr=rate, max_norm=None)
    steps = ascend(Objective(sampler, Quadratic(TARGET)), z, 45, optimizer)
    torch.testing.assert_close(steps[-1].noise, near, rtol=1e-12, atol=1e-12)
    for step in steps[:10]:
        torch.testing.assert_close(step.noise - near, (z - near) / 2**step.index, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0, 1.5, 1.99])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_of_a_smooth_objective_gains_what_theorem_1_promises(share, eta):
    model = toy(eta)
    smoothness = model.weights.square().sum().item()  # the Hessian of the quadratic is -w w^T
    rate = share / smoothness
    objective = Objective(model.sampler(), Quadratic(TARGET))
    optimizer = GradientAscent(update=optim.SGD, lr=rate, max_norm=None)
    steps = ascend(objective, objective.sampler.init(3), 8, optimizer)
    for now, after in zip(steps, steps[1:], strict=False):
        promised = (rate - rate**2 * smoothness / 2) * now.grad_norm.square()
        assert now.index or (promised > 0.02).all()
        torch.testing.assert_close(after.evaluation.value - now.evaluation.value, promised, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("share", [0.3, 1.0, 1.9])
def test_theorem_1_bounds_the_gain_from_below_where_the_objective_bends_less_than_it_may(share):
    model = toy()
    reward = FunctionReward(lambda x: -torch.log(torch.cosh(x - TARGET)).sum(1), name="soft")  # |curvature| <= 1
    smoothness = model.weights.square().sum().item()
    rate = share / smoothness
    objective = Objective(model.sampler(), reward)
    optimizer = GradientAscent(update=optim.SGD, lr=rate, max_norm=None)
    steps = ascend(objective, objective.sampler.init(3), 20, optimizer)
    for now, after in zip(steps, steps[1:], strict=False):
        promised = (rate - rate**2 * smoothness / 2) * now.grad_norm.square()
        assert (after.evaluation.value - now.evaluation.value >= promised - 1e-13).all()


def one_step(optimizer, objective, noise, state=None):
    return optimizer.step(objective, noise, state or {}, Seeds(tuple(range(len(noise)))))


def test_a_direction_longer_than_max_norm_is_scaled_down_to_it_row_by_row_and_a_shorter_one_left_alone():
    model = toy()
    reward = FunctionReward(lambda x: x.sum(1) * torch.tensor([0.01, 1.0, 100.0], dtype=f64), name="steep")
    objective = Objective(model.sampler(), reward)
    noise = objective.sampler.init(3)
    lengths = math.sqrt(3) * model.weights.norm() * torch.tensor([0.01, 1.0, 100.0], dtype=f64)
    limit = lengths[1].item() / 2
    move = one_step(GradientAscent(update=optim.SGD, lr=1.0, max_norm=limit), objective, noise)
    torch.testing.assert_close(move.info["grad_norm"], lengths, rtol=1e-12, atol=0)
    made = (move.noise - noise).flatten(1)
    expected = torch.stack([lengths[0], *torch.tensor([limit, limit], dtype=f64)])
    torch.testing.assert_close(made.norm(dim=1), expected, rtol=1e-12, atol=0)
    way = model.weights.repeat_interleave(3) / (math.sqrt(3) * model.weights.norm())
    torch.testing.assert_close(made / expected[:, None], way.expand(3, -1), rtol=1e-9, atol=1e-12)


def test_the_rate_and_the_clipping_by_default_are_the_published_ones():
    objective = Objective(toy().sampler(), Linear(10.0))
    noise = objective.sampler.init(1)
    move = one_step(GradientAscent(), objective, noise)
    made = (move.noise - noise)[objective.sampler.layout.zero_fixed(torch.ones_like(noise)).bool()]
    torch.testing.assert_close(made, torch.full_like(made, 0.01), rtol=1e-5, atol=0)  # Adam's first step
    torch.testing.assert_close(
        move.state["update.exp_avg"].norm(), torch.tensor(0.1, dtype=f64)
    )  # of a clipped gradient


def test_a_dead_draw_never_changes():
    objective = Objective(toy().sampler(), Quadratic(TARGET))
    start = objective.sampler.init(2)
    last = ascend(objective, start, 10, GradientAscent(lr=0.5))[-1].noise
    assert torch.equal(last[:, -1], start[:, -1]) and (last[:, :-1] - start[:, :-1]).abs().min() > 0


@pytest.mark.parametrize("update", FACTORIES.values(), ids=FACTORIES)
def test_a_step_changes_neither_its_noise_nor_its_state_and_gives_the_same_again(update):
    objective = Objective(toy().sampler(), Quadratic(TARGET))
    optimizer = GradientAscent(update=update, lr=0.1)
    noise = objective.sampler.init(2)
    move = one_step(optimizer, objective, noise)
    noise, state = move.noise, move.state
    before = noise.clone(), {name: part.clone() for name, part in state.items()}
    first, second = (one_step(optimizer, objective, noise, state) for _ in range(2))
    assert torch.equal(noise, before[0]) and all(torch.equal(part, before[1][name]) for name, part in state.items())
    assert torch.equal(first.noise, second.noise)
    assert all(torch.equal(part, second.state[name]) for name, part in first.state.items())


def test_the_state_is_tensors_with_a_row_for_each_row():
    objective = Objective(toy().sampler(), Quadratic(TARGET))
    state = one_step(GradientAscent(), objective, objective.sampler.init(3)).state
    assert set(state) == {"update.step", "update.exp_avg", "update.exp_avg_sq"}
    assert all(part.shape[0] == 3 and not part.requires_grad for part in state.values())


def test_a_black_box_is_refused_before_anything_is_computed():
    black = FunctionReward(lambda x: x.sum(1), differentiable=False, name="jpeg")
    objective = Objective(toy().sampler(), black)
    with pytest.raises(GradientError, match="'jpeg' is a black box"):
        next(iterate(objective, objective.sampler.init(), optimizer=GradientAscent(), budget=Budget(steps=1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": -1.0}, "lr must be .*got -1.0"),
        ({"lr": math.nan}, "lr must be .*got nan"),
        ({"lr": math.inf}, "lr must be .*got inf"),
        ({"max_norm": 0.0}, "max_norm must be > 0, got 0.0; pass None"),
        ({"max_norm": math.nan}, "max_norm must be .*got nan"),
        (
            {"update": optim.AdamW},
            r"must not decay the noise, got AdamW with weight_decay=0.01; use Adam, or functools.partial",
        ),
        ({"update": functools.partial(optim.SGD, weight_decay=0.1)}, "must not decay the noise, got SGD"),
        (
            {"update": functools.partial(optim.SGD, maximize=True)},
            "must descend, got SGD with maximize=True; leave that out",
        ),
        ({"update": optim.LBFGS}, "step without a closure, got LBFGS"),
        ({"update": optim.SparseAdam}, "got SparseAdam"),
        ({"update": functools.partial(optim.SGD, nesterov=True)}, "got SGD"),
        ({"update": "adam"}, "got 'adam'"),
        ({"update": lambda params, lr: None}, "update must be called as"),
    ],
)
def test_what_does_not_fit_is_refused_at_construction_in_one_line(arguments, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        GradientAscent(Backprop(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("update", FACTORIES.values(), ids=FACTORIES)
def test_a_row_whose_gradient_is_zero_stays_where_it_is_until_it_has_one_again(update):
    """Momentum would carry it on: past the height at which a clamped reward was good enough."""
    objective = Objective(toy().sampler(), CLAMPED)
    start = objective.sampler.init(3)
    steps = ascend(objective, start, 60, GradientAscent(update=update, lr=0.1))
    stopped = [bool((step.grad_norm[0] == 0).item()) for step in steps[:-1]]
    assert stopped[-1] or update is FACTORIES["Adadelta"] or update is FACTORIES["Adagrad"]
    for before, after, still in zip(steps, steps[1:], stopped, strict=False):
        assert torch.equal(before.noise[0], after.noise[0]) is still


def test_a_zero_gradient_leaves_the_optimizers_state_as_it_is():
    objective = Objective(toy().sampler(), CLAMPED)
    start = objective.sampler.init(1)
    at_rest = next(step for step in ascend(objective, start, 60, GradientAscent(lr=0.1)) if step.grad_norm[0] == 0)
    on = ascend(objective, at_rest, 61, GradientAscent(lr=0.1))
    assert all(torch.equal(on[0].state[name], part) for name, part in at_rest.state.items())
