"""The default method: what it does where, and that it is never behind luck."""

from __future__ import annotations

import pytest
import torch

from noiseward import Budget, FunctionSampler, GradientAscent, Objective, Steady, Tilting, align, iterate
from noiseward.errors import GradientError, TapeError
from noiseward.methods import choose_method
from noiseward.noise.layout import Seeds
from noiseward.optimizers.automatic import Automatic
from noiseward.optimizers.search import BestOfN, TrustRegion
from noiseward.rewards.reward import FunctionReward
from noiseward.toys import GaussianModel, Linear
from tests.test_plausible import TESTS, model, passed, problem, run


@pytest.mark.parametrize(
    ("sampler", "reward", "says", "first"),
    [
        (model(), Linear(1.0), "the best of 9 noises, 2 guided runs, then steady gradient ascent", BestOfN),
        (model(eta=0.0), Linear(1.0), "the best of 9 noises, then steady gradient ascent", BestOfN),
        (model(), FunctionReward(lambda x: x.sum(1), differentiable=False), "trust regions", TrustRegion),
    ],
)
def test_auto_does_what_model_and_reward_offer(sampler, reward, says, first):
    objective, optimizer = problem(reward, sampler=sampler), choose_method("auto", reward).optimizer
    assert optimizer.describe(objective).startswith(says)
    assert isinstance(optimizer._stages(objective)[0][2], first)
    steps = run(objective, optimizer, steps=11)
    assert passed(steps[-1].best) and (steps[-1].best.reward > steps[0].evaluation.reward).all()


@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_auto_that_keeps_the_seed_draws_nothing_fresh_before_the_first_step(eta):
    objective = problem(sampler=model(eta=eta))
    start, optimizer = objective.sampler.init(3, seed=0), choose_method("auto:keep_seed=true", Linear(1.0)).optimizer
    steps = run(objective, optimizer, steps=10)
    for step in steps[: 8 if eta else 10]:
        near = torch.cosine_similarity(step.noise[:, 0], start[:, 0], dim=1)
        assert (near > 0.7).all()  # fresh noise has none


def silent(batch):
    """A sampler that draws noise at its steps and announces none."""
    return sum(torch.randn(batch, 64, dtype=torch.float64) for _ in range(4)) / 2


def test_auto_ascends_where_a_sampler_cannot_be_guided_and_continues_so():
    objective = Objective(FunctionSampler(silent), Linear(1.0), plausible=TESTS)
    with pytest.raises(TapeError):
        run(objective, Tilting(), steps=1)
    steps = run(objective, Automatic(), steps=6)
    assert (steps[-1].best.reward > steps[1].best.reward).all() and "center" in steps[2].state
    for at in (1, 2, 3, 4):  # the stage is known from the state
        seeds = Seeds((40, 41, 42))
        again = list(iterate(objective, steps[at], optimizer=Automatic(), budget=Budget(steps=6), seeds=seeds))
        assert torch.equal(again[-1].best.noise, steps[-1].best.noise)


def test_auto_guides_rows_one_at_a_time_where_they_are_sampled_so():
    toy = GaussianModel(steps=6, dim=64, dtype=torch.float64)
    sampler = FunctionSampler(lambda: toy.sample(1), denoiser=toy)
    together, alone = (Objective(one, Linear(1.0), plausible=TESTS) for one in (model(), sampler))
    found = [run(objective, Automatic(), steps=4)[-1].best for objective in (together, alone)]
    torch.testing.assert_close(found[0].noise, found[1].noise)


def test_what_auto_returns_passes_from_its_first_step_on():
    """Half of all fresh samples fail here."""
    tests = type(TESTS)(fresh=8, image=0.5)
    auto, luck = (run(problem(plausible=tests), optimizer, steps=1) for optimizer in (Automatic(), BestOfN(8)))
    assert torch.equal(auto[-1].best.noise, luck[-1].best.noise)
    steps = run(problem(plausible=tests), Automatic(), rows=16, steps=5)
    assert all((step.best.image >= 0.5).all() for step in steps[1:])
    assert not run(problem(plausible=None), BestOfN(8), steps=1)[0].state


def test_a_reward_without_the_gradient_it_declares_fails_at_the_first_step():
    detached = FunctionReward(lambda x: x.detach().sum(1), name="detached")
    with pytest.raises(GradientError, match="reward 'detached' returned a score without a gradient"):
        run(problem(detached), Automatic(), steps=3)


def test_a_solution_says_what_was_done():
    solution = align(GaussianModel(steps=4, dim=64).sampler(), None, Linear(1.0), steps=4, progress=False)
    assert solution.method == "auto: the best of 9 noises, 2 guided runs, then steady gradient ascent"
    assert solution.method in repr(solution)
    plain = align(GaussianModel(steps=4, dim=64).sampler(), None, Linear(1.0), method="dno", steps=1, progress=False)
    assert plain.method is None
    assert isinstance(choose_method("dno", Linear(1.0)).optimizer, Steady | GradientAscent)
