"""The three laws, for every sampler, reward, estimator and optimizer: a new one joins by one line in a table below."""

import functools

import pytest
import torch
from torch import nn, optim

from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.methods import choose_method
from noiseward.noise.layout import Seeds
from noiseward.noise.regularize import Concentration
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.evolve import ChannelEvolution
from noiseward.optimizers.gradient import Annealed, Backprop
from noiseward.optimizers.hybrid import Hybrid1, Hybrid2
from noiseward.optimizers.langevin import Langevin
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.walk import Walk
from noiseward.optimizers.zeroth_order import ZerothOrder
from noiseward.rewards.parse import make_reward
from noiseward.rewards.reward import FunctionReward, WeightedSum
from noiseward.samplers.function import FunctionSampler
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
DIM, ROWS = 3, 3
WORDS = ["a duck", "a duck on black", "a lighthouse"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, DIM)).double()


def langevin(net, batch, prompt=None, *, axis=None):
    """A curved sampler: the first draw, then steps of drift, noise and prompt."""
    x = torch.randn(batch, DIM, dtype=f64)
    shift = 0 if prompt is None else torch.tensor([[len(text) / 10] for text in prompt], dtype=f64)
    for _ in range(3):
        x = x + 0.5 * net(x) + 0.2 * torch.randn(axis or batch, DIM, dtype=f64) + shift
    return x.tanh()


def model(eta):
    return GaussianModel(steps=4, eta=eta, dim=DIM, dtype=f64)


def make_sampler(recompute):
    net = network()
    return FunctionSampler(lambda batch: langevin(net, batch), net, recompute=recompute)


def as_video(x):
    """Samples as frames of one gray pixel."""
    return x.sigmoid()[:, :, None, None, None].expand(-1, -1, 3, 1, 1)


NET = network().requires_grad_(False)

# name: how to make it; all in float64, samples (B, 3)
SAMPLERS = {
    "ode": lambda: model(0.0).sampler(),
    "half": lambda: model(0.5).sampler(),
    "sde": lambda: model(1.0).sampler(),
    "sde recomputed": lambda: model(1.0).sampler(recompute=True),
    "network": lambda: make_sampler(False),
    "network recomputed": lambda: make_sampler(True),
    "prompted": lambda: FunctionSampler(lambda batch, prompt: langevin(NET, batch, prompt), NET),
    "one row at a time": lambda: FunctionSampler(lambda: langevin(NET, 1), NET),
    "shared draw": lambda: FunctionSampler(lambda batch: langevin(NET, batch, axis=1), NET),
    "draws of other sizes": lambda: FunctionSampler(
        lambda batch: NET(torch.randn(batch, DIM, dtype=f64)) * (1 + 0.1 * torch.randn(batch, 1, dtype=f64)), NET
    ),
}
REWARDS = {
    "linear": Linear([1.0, -0.5, 0.25]),
    "quadratic": Quadratic([0.5, -0.2, 0.1]),
    "sum": WeightedSum({Linear(0.3): 1.0, Quadratic(0.2): 2.0}),
    "prompted": FunctionReward(
        lambda x, prompt: x[:, 0] * torch.tensor([len(text) / 10 for text in prompt], dtype=f64), name="prompted"
    ),
    "motion": FunctionReward(lambda x: make_reward("motion")(as_video(x), None), name="motion"),
    "motion smoothness": FunctionReward(lambda x: make_reward("motion-smoothness")(as_video(x), None), name="smooth"),
    "loudness": make_reward("loudness"),
    "bumpy": FunctionReward(lambda x: (3 * x).sin().prod(1) - x.square().sum(1), name="bumpy"),
}
ESTIMATORS = {
    "backprop": Backprop(),
    "the last step exact": Backprop(1, through="linear"),
    "annealed": Annealed(2),
    "zeroth order": ZerothOrder(4, 0.1, chunk=5),  # a chunk that cuts through a row's candidates
    "antithetic": ZerothOrder(4, 0.1, antithetic=True, normalize=False),
    "hybrid 1": Hybrid1(4, 0.1, chunk=5),
    "hybrid 2": Hybrid2(4, 0.1, chunk=5),
}
OPTIMIZERS = {
    "SGD": GradientAscent(update=optim.SGD, lr=0.1),
    "momentum": GradientAscent(update=functools.partial(optim.SGD, momentum=0.9), lr=0.1),
    "Adam unclipped": GradientAscent(lr=0.1, max_norm=None),
    "RMSprop": GradientAscent(update=optim.RMSprop, lr=0.03),
    "Rprop": GradientAscent(update=optim.Rprop, lr=0.1),
    **{f"Adam, {name}": GradientAscent(estimator, lr=0.1) for name, estimator in ESTIMATORS.items()},
    "best of n": BestOfN(4, chunk=5),
    "Langevin": Langevin(),
    "Langevin, exact": Langevin(0.5, size=0.3),
    "relay": Relay(BestOfN(4, chunk=5), GradientAscent(lr=0.1), steps=2),
    "walk": Walk(),
    "zero-order search": ZeroOrderSearch(4, 0.8, chunk=5),
    "trust region": TrustRegion(4, 2, chunk=5),
    "channel evolution": ChannelEvolution(4, chunk=5),
    "ReNO": choose_method("reno:lr=1.0", Quadratic(1.0)).optimizer,
}

samplers = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
rewards = pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
estimators = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
both = pytest.mark.parametrize(  # every sampler and every reward, not every pair of them
    ("sampler", "reward"),
    [pytest.param(sampler, REWARDS["bumpy"], id=name) for name, sampler in SAMPLERS.items()]
    + [pytest.param(SAMPLERS["prompted"], reward, id=name) for name, reward in REWARDS.items()],
)
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def problem(sampler, reward):
    return Objective(sampler(), reward, WORDS, Concentration(0.05, block=1, permutations=2))


def run(objective, noise, optimizer, rows=range(ROWS), **budget):
    seeds = Seeds(tuple(10 + row for row in rows))
    return list(iterate(objective, noise, optimizer=optimizer, budget=Budget(**budget), seeds=seeds))


def close(one, two):
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


# ---- function law: same noise, same sample, bit for bit ----


@samplers
def test_the_same_noise_gives_the_same_sample_whatever_ran_between(sampler):
    sampler = sampler()
    noise, other = sampler.init(ROWS), sampler.init(ROWS, seed=99)
    before, kept = sampler(noise, WORDS), noise.clone()
    assert not torch.equal(sampler(other, WORDS), before)
    torch.randn(7)  # nor does the global generator matter
    assert torch.equal(sampler(noise, WORDS), before)
    assert torch.equal(noise, kept)


@samplers
def test_the_same_noise_gives_the_same_sample_in_another_process_of_discovery(sampler):
    first, second = sampler(), sampler()
    noise = first.init(ROWS)
    assert first.layout == second.layout and torch.equal(second.init(ROWS), noise)
    assert torch.equal(first(noise, WORDS), second(noise.clone(), WORDS))


@samplers
def test_the_same_noise_gives_the_same_sample_with_and_without_a_graph(sampler):
    sampler = sampler()
    noise = sampler.init(ROWS)
    with torch.no_grad():
        plain = sampler(noise, WORDS)
    graphed = sampler(noise.clone().requires_grad_(True), WORDS)
    assert graphed.requires_grad and not plain.requires_grad
    assert torch.equal(graphed, plain)


@both
@estimators
def test_the_same_noise_and_seeds_give_the_same_direction(sampler, reward, estimator):
    objective = problem(sampler, reward)
    noise, seeds = objective.sampler.init(ROWS), Seeds((1, 2, 3))
    one, two = (estimator(objective, noise, seeds) for _ in range(2))
    assert torch.equal(one[0].value, two[0].value) and torch.equal(one[1], two[1])
    assert one[1].abs().max() > 0


# ---- row law: row i depends on row i alone ----


@samplers
@rewards
def test_a_rows_evaluation_is_the_same_alone_and_in_a_batch(sampler, reward):
    objective = problem(sampler, reward)
    noise = 2 * objective.sampler.init(ROWS)
    together = objective(noise)
    for row in range(ROWS):
        alone = objective.rows([row])(noise[row : row + 1])
        for name in ("sample", "reward", "penalty", "value"):
            close(getattr(together, name)[row : row + 1], getattr(alone, name))


@both
@estimators
def test_a_rows_direction_is_the_same_alone_and_in_a_batch_of_any_order(sampler, reward, estimator):
    objective = problem(sampler, reward)
    noise, seeds = objective.sampler.init(ROWS), (5, 6, 7)
    together = estimator(objective, noise, Seeds(seeds))[1]
    order = [2, 0, 1]
    shuffled = estimator(objective.rows(order), noise[order], Seeds(tuple(seeds[row] for row in order)))[1]
    close(shuffled, together[order])
    for row in range(ROWS):
        alone = estimator(objective.rows([row]), noise[row : row + 1], Seeds(seeds[row : row + 1]))[1]
        close(together[row : row + 1], alone)


@samplers
@optimizers
def test_a_rows_whole_run_is_the_same_alone_and_in_a_batch(sampler, optimizer):
    objective = problem(sampler, REWARDS["bumpy"])
    noise = objective.sampler.init(ROWS)
    together = run(objective, noise, optimizer, steps=3)
    alone = run(objective.rows([1]), noise[1:2], optimizer, rows=[1], steps=3)
    for one, two in zip(together, alone, strict=True):
        close(one.noise[1], two.noise[0])
        close(one.evaluation.value[1], two.evaluation.value[0])
        close(one.probability[1], two.probability[0])
    close(together[-1].best.value[1], alone[-1].best.value[0])


@optimizers
def test_a_row_does_not_notice_neighbors_that_finished_or_failed(optimizer):
    def fn(x):
        rows = [x[0].sqrt() if x[2] > 50 else -(x - 0.3).square().sum() for x in x]  # far out: not a number
        return torch.stack(rows)

    objective = Objective(model(1.0).sampler(), FunctionReward(fn, name="patchy"))
    noise = objective.sampler.init(ROWS)
    noise[1] = 0
    noise[1, 0] = (0.3 - objective(noise).sample[1]) / model(1.0).weights[0]  # at the maximum already
    noise[2] = torch.tensor([-500.0, 0.0, 500.0])
    together = run(objective, noise, optimizer, steps=6, reward=-1e-9)
    assert together[0].status == (Status.RUNNING, Status.REWARD, Status.NONFINITE)
    alone = run(objective, noise[:1], optimizer, rows=[0], steps=6, reward=-1e-9)
    for one, two in zip(together, alone, strict=True):
        close(one.noise[0], two.noise[0])
        assert torch.equal(one.noise[1:], noise[1:])


# ---- pair law: a reward is kept with the noise it was computed from ----


@both
@optimizers
def test_every_reward_is_that_of_its_noise_and_the_best_is_the_running_maximum(sampler, reward, optimizer):
    objective = problem(sampler, reward)
    steps = run(objective, objective.sampler.init(ROWS), optimizer, steps=3)
    values = []
    for step in steps:
        again = objective(step.noise)
        for name in ("sample", "reward", "penalty", "value"):
            assert torch.equal(getattr(step.evaluation, name), getattr(again, name))
        values.append(again.value)
        highest, index = torch.stack(values).max(0)
        assert torch.equal(step.best.value, highest) and torch.equal(step.best.index, index)
        best = objective(step.best.noise)
        assert torch.equal(best.value, highest) and torch.equal(best.reward, step.best.reward)
        assert torch.equal(best.sample, step.best.sample)
    assert (steps[-1].best.value >= values[0]).all()
