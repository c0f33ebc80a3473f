"""Few steps first: what is carried is exactly Gaussian, exact while the prediction stands still, and close when not."""

import itertools
import math

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from noiseward import DiffusersSampler, align
from noiseward.errors import ArgumentError
from noiseward.loop.budget import Budget, Status
from noiseward.loop.collect import collect
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.coarse_to_fine import coarse_to_fine
from noiseward.pipelines.coarsen import coarsen, list_levels
from noiseward.rewards.reward import FunctionReward
from noiseward.samplers.nested import Nested
from noiseward.toys import GaussianModel, Quadratic
from tests.tiny import CALL, stable_diffusion

f64 = torch.float64
STEPS = [(1, 2), (2, 4), (2, 6), (4, 20), (5, 5)]
DIFFUSERS = [0.01, 0.1, 0.3, 0.6, 0.9, 0.95, 0.999]  # starts high, ends below 1


def model(steps, **changes):
    return GaussianModel(**{"steps": steps, "mean": 0.4, "std": 0.5, "dim": 3, "dtype": f64, **changes})


def toy(coarse, fine):
    return Nested(model(coarse).alphas[::-1], model(fine).alphas[::-1])


SCHEDULES = [
    *(pytest.param(*(model(steps).alphas[::-1] for steps in pair), id=f"{pair[0]} in {pair[1]}") for pair in STEPS),
    pytest.param(DIFFUSERS[1::2] + DIFFUSERS[-1:], DIFFUSERS, id="another start, an end below 1"),
]


@pytest.mark.parametrize(("coarse", "fine"), SCHEDULES)
def test_carried_noise_is_exactly_gaussian(coarse, fine):
    q = Nested(coarse, fine).matrix
    torch.testing.assert_close(q @ q.T, torch.eye(len(coarse), dtype=f64))  # coarse draws of Gaussian noise
    both = torch.cat([q.T, torch.eye(len(fine), dtype=f64) - q.T @ q], 1)  # fine draws of coarse ones and the rest
    torch.testing.assert_close(both @ both.T, torch.eye(len(fine), dtype=f64))


@pytest.mark.parametrize(("coarse", "fine"), SCHEDULES)
def test_going_down_and_up_again_changes_nothing(coarse, fine):
    pair = Nested(coarse, fine)
    noise, other = torch.randn(2, len(fine), 3, dtype=f64), torch.randn(2, len(coarse), 3, dtype=f64)
    torch.testing.assert_close(pair.refine(pair.coarsen(noise), rest=noise), noise)
    torch.testing.assert_close(pair.coarsen(pair.refine(other, rest=noise)), other)


def test_two_fine_steps_get_the_weights_of_the_formula():
    t, u, s = 0.2, 0.4, 0.7
    row = Nested([t, s], [t, u, s]).matrix[1, 1:]

    def sigma(one, two):
        return math.sqrt((1 - two) / (1 - one) * (1 - one / two))

    keep = math.sqrt((1 - s - sigma(u, s) ** 2) / (1 - u))
    expected = torch.tensor([keep * sigma(t, u), sigma(u, s)], dtype=f64) / sigma(t, s)
    torch.testing.assert_close(row, expected)


@pytest.mark.parametrize(("few", "many"), STEPS)
def test_while_the_prediction_stands_still_both_samplers_pass_the_same_states(few, many):
    """Data at one point: the prediction is that point, always."""

    def states(steps, noise):
        toy = model(steps, std=0.0)
        seen = {}
        toy.register_forward_hook(lambda module, args, result: seen.update({round(args[1], 9): args[0]}))
        toy.sampler()(noise)
        return seen

    rest = torch.randn(2, many + 1, 3, dtype=f64)
    noise = torch.randn(2, few + 1, 3, dtype=f64)
    coarse, fine = states(few, noise), states(many, toy(few, many).refine(noise, rest=rest))
    assert len(coarse) == few
    for level, state in coarse.items():
        torch.testing.assert_close(fine[level], state)


def test_the_sample_is_closer_the_finer_the_coarse_sampler():
    torch.manual_seed(0)
    noise = torch.randn(64, 81, 3, dtype=f64)
    expected = model(80).sampler()(noise)
    gaps = []
    for few in (5, 10, 20, 40):
        carried = toy(few, 80).coarsen(noise)
        gaps.append(float((model(few).sampler()(carried) - expected).square().mean().sqrt()))
    strangers = float((model(10).sampler()(torch.randn(64, 11, 3, dtype=f64)) - expected).square().mean().sqrt())
    assert gaps[0] < strangers / 2 and all(a > 1.4 * b for a, b in itertools.pairwise(gaps))


@pytest.mark.parametrize(
    ("coarse", "fine", "words"),
    [
        ([0.1, 0.5, 1.0], [0.1, 0.4, 0.7, 1.0], "must be among"),
        ([0.1, 0.4], [0.1, 0.4, 1.0], "must be among"),
        ([0.5, 0.1, 1.0], [0.1, 0.5, 1.0], "must rise within"),
        ([0.1], [0.1, 0.5], "must rise within"),
        ([0.1, 1.0], [0.1, 0.5, 1.2], r"must rise within \(0, 1\]"),
    ],
)
def test_levels_that_are_not_nested_are_refused(coarse, fine, words):
    with pytest.raises(ArgumentError, match=words):
        Nested(coarse, fine)


def test_noise_of_another_sampler_is_refused():
    with pytest.raises(ArgumentError, match="expected 5 draws, got"):
        toy(2, 4).coarsen(torch.zeros(1, 4, 3))
    with pytest.raises(ArgumentError, match="rest must fit noise of shape"):
        toy(2, 4).refine(torch.zeros(1, 3, 3), rest=torch.zeros(1, 5, 2))


# ---- coarse to fine ----


def run_both(first, budget, few=4, many=20, rows=2, seed=0):
    coarse, fine = (Objective(model(steps).sampler(), Quadratic(2.0)) for steps in (few, many))
    start = fine.sampler.init(2, seed=7)[:rows]
    steps = list(
        coarse_to_fine(
            coarse, fine, start, nested=toy(few, many), optimizer=GradientAscent(lr=0.1), first=first, budget=budget
        )
    )
    return steps, fine, start


def test_it_starts_at_the_fine_samplers_start_and_pays_for_both():
    steps, fine, start = run_both(Budget(steps=3), Budget(steps=5))
    assert [step.index for step in steps] == [0, 3, 4, 5] and torch.equal(steps[0].noise, start)
    coarse = 4 * 3 * 3 + 4  # three steps at 4 calls forward and 4 backward, one evaluation
    costs = [step.nfe.cost for step in steps]
    assert costs == [20, 20 + coarse + 60, 20 + coarse + 120, 20 + coarse + 140]
    assert all(torch.equal(step.evaluation.value, fine(step.noise).value) for step in steps)
    assert (steps[1].evaluation.value > steps[0].evaluation.value).all()  # what was gained carries over
    assert steps[-1].status == (Status.STEPS,) * 2 and (steps[-1].best.value >= steps[1].best.value).all()


def test_rows_are_carried_by_themselves():
    together, *_ = run_both(Budget(steps=3), Budget(steps=5))
    alone, *_ = run_both(Budget(steps=3), Budget(steps=5), rows=1)
    for one, two in zip(together, alone, strict=True):
        torch.testing.assert_close(one.noise[:1], two.noise)


def test_it_gets_there_for_fewer_calls():
    """The reward that plain ascent reaches, reached for less than half of its denoiser calls."""
    plain = run_both(Budget(steps=0), Budget(steps=30))[0][-1]
    steps, *_ = run_both(Budget(steps=20), Budget(steps=26))
    assert (steps[-1].best.value >= plain.best.value).all()
    assert steps[-1].nfe.cost < plain.nfe.cost / 2


def test_what_few_steps_found_survives_an_interruption(ctrl_c):
    coarse, fine = (Objective(model(steps).sampler(), Quadratic(2.0)) for steps in (4, 20))
    calls = []

    def interrupt(x):
        calls.append(1)
        if len(calls) == 5:
            ctrl_c()
        return -(x - 2.0).square().sum(1) / 2

    stopping = Objective(coarse.sampler, FunctionReward(interrupt, name="impatient"))
    how = {"nested": toy(4, 20), "optimizer": GradientAscent(lr=0.1), "first": Budget(steps=6)}
    steps = coarse_to_fine(stopping, fine, fine.sampler.init(2, seed=7), budget=Budget(steps=6), **how)
    solution = collect(steps, fine)
    assert [record["index"] for record in solution.history] == [0, 2]  # three evaluations, two steps, carried over
    assert solution.status == (Status.INTERRUPTED,) * 2 and (solution.gain > 0).all()
    *_, last = iterate(fine, solution.last, optimizer=GradientAscent(lr=0.1), budget=Budget(steps=6))
    assert last.index == 6 and (last.best.value > solution.value).all()
    calls[:] = [1, 1, 1]
    steps = coarse_to_fine(stopping, fine, fine.sampler.init(2, seed=7), budget=Budget(steps=6), **how)
    solution = collect(steps, fine)  # before anything was found there
    assert solution.status == (Status.INTERRUPTED,) * 2 and not solution.gain.any()


def test_at_the_raised_rate_coarse_steps_change_the_sample_as_much():
    """Adam on many steps, on few at the same rate, and on few at the raised one: how far the sample is after 10 steps;
    what is left is the last coarse step, whose draw has no weight while all fine ones but one there have."""

    def measure_distance(steps, rate):
        objective = Objective(model(steps).sampler(), Quadratic(4.0))
        start = toy(20, 100).coarsen(noise) if steps == 20 else noise
        *_, last = iterate(objective, start, optimizer=GradientAscent(lr=rate), budget=Budget(steps=10))
        return (last.evaluation.sample - objective.sampler(start)).norm().item()

    noise = torch.randn(8, 101, 3, dtype=f64, generator=torch.Generator().manual_seed(0))
    stretch = toy(20, 100).stretch
    assert stretch == pytest.approx(math.sqrt(101 / 21))
    many, few, raised = measure_distance(100, 0.01), measure_distance(20, 0.01), measure_distance(20, 0.01 * stretch)
    assert few < many / 2 and raised == pytest.approx(many, rel=0.2)


# ---- pipelines ----


def sd(steps, **changes):
    pipe = stable_diffusion()
    return DiffusersSampler(pipe, **{**CALL, "eta": 1.0, "num_inference_steps": steps, **changes})


def test_a_pipelines_levels_are_those_its_scheduler_steps_by():
    sampler = sd(4)
    scheduler = sampler.pipe.scheduler
    assert list_levels(sampler) == [float(scheduler.alphas_cumprod[t].double()) for t in (751, 501, 251, 1)] + [
        float(scheduler.alphas_cumprod[0])
    ]
    for spacing in ("leading", "trailing"):
        pair = sd(5), sd(20)
        for each in pair:
            each.pipe.scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing=spacing)
        assert Nested(*map(list_levels, pair)).matrix.shape == (6, 21)


def test_a_pipelines_image_is_close_to_that_of_more_steps():
    fine = sd(20)
    coarse, pair = coarsen(fine, 5)
    noise = fine.init(4)
    with torch.no_grad():
        expected, found = fine(noise, "a"), coarse(pair.coarsen(noise), "a")
        stranger = coarse(coarse.init(4, seed=50), "a")
    gap, apart = ((each - expected).square().mean().sqrt() for each in (found, stranger))
    assert gap < apart / 2


def test_samplers_that_do_not_mix_their_noise_so_are_refused():
    with pytest.raises(ArgumentError, match="eta=0.5; give eta=1"):
        list_levels(sd(4, eta=0.5))
    sampler = sd(4)
    sampler.pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(sampler.pipe.scheduler.config)
    with pytest.raises(ArgumentError, match="EulerAncestralDiscreteScheduler; give scheduler='ddim'"):
        list_levels(sampler)


def test_align_takes_few_steps_first():
    pipe = stable_diffusion()
    how = {**CALL, "num_inference_steps": 4, "steps": 4, "seed": 3, "progress": False}
    solution = align(pipe, "a", "brightness", method="dno:coarse=2,guard=none", **how)
    assert solution.nfe.forward == 4 + 4 * 2 + 2 * 4  # the start; three steps and a look at 2 steps; one and one at 4
    assert solution.nfe.backward == 3 * 2 + 4
    stock = DiffusersSampler(pipe, **CALL, eta=1.0).run_stock("a", seed=3)
    assert torch.equal(solution.initial.sample, stock) and (solution.gain > 0).all()
    with pytest.raises(ArgumentError, match="must be among"):
        align(pipe, "a", "brightness", method="dno:coarse=3", **how)
    with pytest.raises(ArgumentError, match="coarse_to_fine"):
        align(model(4).sampler(), None, Quadratic(1.0), method="dno:coarse=2", steps=1)
