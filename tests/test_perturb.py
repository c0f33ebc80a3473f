"""Estimators without the reward's gradient: what they tend to, how fast, what they cost, and what they leave alone."""

import math

import pytest
import torch
from torch import nn

from noiseward.errors import ArgumentError, GradientError
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.noise.layout import Draw, Layout, Seeds
from noiseward.noise.regularize import Concentration
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.gradient import Backprop
from noiseward.optimizers.hybrid import Hybrid1, Hybrid2
from noiseward.optimizers.zeroth_order import ZerothOrder
from noiseward.rewards.reward import FunctionReward, WeightedSum
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.sampler import Sampler
from noiseward.toys import GaussianModel, Linear, Quadratic

f64 = torch.float64
DIM, SLOPE = 3, torch.tensor([1.0, -2.0, 0.5], dtype=f64)
KINDS = {"zeroth order": ZerothOrder, "hybrid 1": Hybrid1, "hybrid 2": Hybrid2}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def model(steps=4):
    return GaussianModel(steps=steps, dim=DIM, dtype=f64)


def black(fn, name="black"):
    return FunctionReward(fn, differentiable=False, name=name)


def estimate(estimator, objective, noise, step=0):
    return estimator(objective, noise, Seeds(tuple(range(len(noise))), step))


def limits(weights):
    """What each estimator tends to for the reward <SLOPE, x> of a sampler with Jacobian (w_0 I, ..., w_K I)."""
    gradient = weights[:, None] * SLOPE
    return {ZerothOrder: gradient, Hybrid1: gradient, Hybrid2: weights.square().sum() * gradient}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
def test_perturbed_images_are_clamped_before_they_are_scored(low, high):
    """Pixels at the ends of [0, 1] and noise on them: cut off; samples that are no such images are left alone."""
    seen = []

    def bright(images):
        seen.append(images)
        return images.mean((1, 2, 3))

    def sample(batch):
        noise = torch.randn(batch, 3, 4, 4, dtype=f64)
        return low + (high - low) * torch.sigmoid(8 * noise).round() + 0 * noise

    objective = Objective(FunctionSampler(sample), black(bright))
    estimate(Hybrid1(8, 0.2), objective, objective.sampler.init(2))
    spread = torch.cat([images for images in seen if len(images) == 16])
    assert (spread.min() < low) == (low < 0) and (spread.max() > high) == (low < 0)


@kinds
@pytest.mark.parametrize("samples", [4, 32])
def test_the_mean_square_error_is_the_one_theory_gives_and_falls_as_one_over_the_samples(kind, samples):
    toy, scale, rows = model(), 0.3, 96
    objective = Objective(toy.sampler(), black(lambda x: x @ SLOPE))
    noise = objective.sampler.init(rows)
    _, direction = estimate(kind(samples, scale, normalize=False, chunk=4096), objective, noise)
    error = (direction / (scale**2 if kind is Hybrid2 else 1) - limits(toy.weights)[kind]).square().sum((1, 2))
    # the mean of q terms (a xi) xi misses a by |a|^2 (n + 1) / q in the mean square, n the dimension of xi
    size, total = SLOPE.square().sum(), toy.weights.square().sum()
    moved = DIM * (len(toy.weights) - 1)  # the last draw is dead
    expected = {
        ZerothOrder: size * total * (moved + 1),
        Hybrid1: size * total * (DIM + 1),
        Hybrid2: size * total**3 * (DIM + 1),
    }[kind]
    assert error.mean() * samples / expected == pytest.approx(1, abs=0.25)
    spread = (expected / samples / rows).sqrt()  # so the mean over rows is unbiased
    bias = (direction.mean(0) / (scale**2 if kind is Hybrid2 else 1) - limits(toy.weights)[kind]).norm()
    assert bias < 2 * spread


def curved_sampler():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(DIM, 6), nn.Tanh(), nn.Linear(6, DIM)).double()

    def fn(batch):
        x = torch.randn(batch, DIM, dtype=f64)
        for _ in range(2):
            x = x + net(x) + 0.5 * torch.randn(batch, DIM, dtype=f64)
        return x.sin()

    return FunctionSampler(fn, net)


@kinds
def test_on_a_curved_problem_a_small_scale_gives_the_limit_of_the_formulas(kind):
    sampler, scale = curved_sampler(), 1e-4
    smooth = FunctionReward(lambda x: (3 * x).sin().prod(1) + x[:, 0].exp(), name="smooth")
    objective = Objective(sampler, smooth)
    noise = sampler.init(1)
    _, gradient = estimate(Backprop(), objective, noise)
    jacobian = torch.autograd.functional.jacobian(sampler, noise)[0, :, 0].flatten(1)  # (DIM, n)
    expected = gradient[0].flatten()
    if kind is Hybrid2:
        expected = jacobian.T @ (jacobian @ expected) * scale**2
    _, direction = estimate(kind(1000, scale, normalize=False, chunk=1000), objective, noise)
    assert (direction[0].flatten() - expected).norm() < 0.25 * expected.norm()
    assert torch.dot(direction.flatten(), gradient.flatten()) > 0


def test_antithetic_pairs_cancel_what_is_even_and_forward_differences_do_not():
    toy = model()
    sampler = toy.sampler()
    noise = sampler.init(2)
    centers = sampler(noise)
    even = black(lambda x: -(x - centers.repeat_interleave(len(x) // 2, 0)).square().sum(1))
    pairs = estimate(ZerothOrder(6, 0.5, antithetic=True, normalize=False), Objective(sampler, even), noise)[1]
    forward = estimate(ZerothOrder(6, 0.5, normalize=False), Objective(sampler, even), noise)[1]
    assert pairs.abs().max() < 1e-12 < 0.1 < forward.norm()


def test_antithetic_pairs_tend_to_the_gradient_of_a_cubic_no_slower_than_theory_says():
    toy, rows, samples = model(), 96, 16
    objective = Objective(toy.sampler(), black(lambda x: x @ SLOPE + 5 * (x**2).sum(1)))
    noise = objective.sampler.init(1).expand(rows, -1, -1)  # one noise, many perturbations
    _, direction = estimate(ZerothOrder(samples, 0.1, antithetic=True, normalize=False, chunk=4096), objective, noise)
    exact = toy.weights[:, None] * (SLOPE + 10 * objective.sampler(noise[:1])[0])
    moved = DIM * (len(toy.weights) - 1)
    expected = exact.square().sum() * (moved + 1) / (samples / 2)  # half as many directions
    assert ((direction - exact).square().sum((1, 2)).mean() / expected).item() == pytest.approx(1, abs=0.25)


@kinds
def test_normalized_directions_have_norm_1_whatever_the_reward_is_multiplied_by(kind):
    objective = Objective(model().sampler(), black(lambda x: x.prod(1)))
    steep = Objective(objective.sampler, black(lambda x: 1e-9 * x.prod(1)))
    noise = objective.sampler.init(3)
    _, direction = estimate(kind(8, 0.1), objective, noise)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), torch.ones(3, dtype=f64), rtol=1e-6, atol=0)
    torch.testing.assert_close(estimate(kind(8, 0.1), steep, noise)[1], direction, rtol=1e-6, atol=1e-9)


@kinds
@pytest.mark.parametrize("normalize", [True, False])
def test_the_exact_gradient_of_the_penalty_is_subtracted_after_normalizing(kind, normalize):
    sampler, reward = model().sampler(), black(lambda x: x.prod(1))
    penalty = Concentration(0.3, block=3, permutations=2)
    noise = sampler.init(2) + 2.0
    estimator = kind(8, 0.1, normalize=normalize)
    plain, with_penalty = (
        estimate(estimator, Objective(sampler, reward, regularizer=p), noise) for p in (None, penalty)
    )
    leaf = noise.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(penalty(leaf, sampler.layout).sum(), leaf)
    slope = sampler.layout.zero_fixed(slope)
    assert slope.norm() > 0.1
    torch.testing.assert_close(with_penalty[1], plain[1] - slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(with_penalty[0].penalty, penalty(noise, sampler.layout))


@kinds
def test_when_all_candidates_score_the_same_the_direction_is_zero_or_the_penaltys_alone(kind):
    sampler, flat = model().sampler(), black(lambda x: torch.zeros(len(x), dtype=f64))
    noise = sampler.init(2) + 2.0
    _, direction = estimate(kind(4, 0.1), Objective(sampler, flat), noise)
    assert not direction.any()
    _, pushed = estimate(kind(4, 0.1), Objective(sampler, flat, regularizer=Concentration(1.0, block=3)), noise)
    assert pushed.isfinite().all() and pushed.norm() > 0.1
    (step, _) = iterate(Objective(sampler, flat), noise, optimizer=GradientAscent(kind(4)), budget=Budget(steps=1))
    assert step.grad_norm.tolist() == [0, 0] and torch.equal(step.next_noise, noise)


@kinds
def test_a_candidate_whose_score_is_not_finite_is_left_out(kind):
    sampler = model().sampler()
    noise = sampler.init(2)
    limit = sampler(noise)[:, 0].min() + 0.02

    def patchy(bad):
        return black(lambda x: torch.where(x[:, 0] > limit, x.new_full((), bad), x[:, 0]))

    for bad in (math.nan, -math.inf):
        directions = estimate(kind(16, 0.1), Objective(sampler, patchy(bad)), noise)[1]
        low = sampler(noise)[:, 0].argmin()
        assert directions[low].isfinite().all() and directions[low].any()
        assert not directions[1 - low].any()  # its own reward is not finite: nothing to compare with


class RecordingSampler(Sampler):
    """The toy's sampler, noting each call's rows, whether a graph was made, and the noise it got."""

    def __init__(self):
        self.inner, self.calls = model().sampler(), []

    @property
    def layout(self):
        return self.inner.layout

    def __call__(self, noise, prompt=None):
        self.calls.append((len(noise), torch.is_grad_enabled() and noise.requires_grad, noise.detach()))
        return self.inner(noise, prompt)


@kinds
def test_candidates_go_without_a_graph_in_chunks_and_one_call_alone_has_one(kind):
    sampler = RecordingSampler()
    objective = Objective(sampler, black(lambda x: x.prod(1)))
    noise = sampler.inner.init(3)
    _, direction = estimate(kind(5, 0.1, chunk=4), objective, noise)
    pieces = [rows for rows, graph, _ in sampler.calls if not graph]
    assert pieces == {ZerothOrder: [4, 4, 4, 3, 3], Hybrid1: [], Hybrid2: [4, 4, 4, 3]}[kind]
    assert [rows for rows, graph, _ in sampler.calls if graph] == ([] if kind is ZerothOrder else [3])
    for chunk in (1, 15, 100):
        other = estimate(kind(5, 0.1, chunk=chunk), objective, noise)[1]
        torch.testing.assert_close(other, direction, rtol=1e-9, atol=1e-12)


@kinds
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_is_counted_the_calls_of_its_own_candidates_however_they_are_batched(kind, chunk, rows):
    objective = Objective(model().sampler(), black(lambda x: x.prod(1)), ["a prompt"] * rows)
    noise = objective.sampler.init(rows)
    with count_calls() as meter:
        estimate(kind(5, 0.1, chunk=chunk), objective, noise)
        calls = 4
        expected = {ZerothOrder: NFE(6 * calls), Hybrid1: NFE(calls, calls), Hybrid2: NFE(6 * calls, calls)}[kind]
    assert meter.nfe == expected
    steps = list(iterate(objective, noise, optimizer=GradientAscent(kind(5, chunk=chunk)), budget=Budget(steps=2)))
    assert steps[-1].nfe == expected + expected + NFE(calls)


def test_rows_that_a_sampler_runs_one_by_one_are_counted_the_same():
    sampler = FunctionSampler(lambda: torch.randn(1, DIM, dtype=f64) + torch.randn(1, DIM, dtype=f64))
    objective = Objective(sampler, black(lambda x: x.prod(1)))
    noise = sampler.init(2)
    with count_calls() as meter:
        estimate(Hybrid2(3, chunk=4), objective, noise)
    assert meter.nfe == NFE(4, 1)


@kinds
def test_a_black_box_scores_all_candidates_at_once_and_a_differentiable_reward_in_chunks(kind):
    seen = []

    def fn(x):
        seen.append((len(x), x.requires_grad))
        return x.prod(1)

    sampler = model().sampler()
    noise = sampler.init(2)
    estimate(kind(5, 0.1, chunk=4), Objective(sampler, black(fn)), noise)
    assert sorted(seen) == [(1, False), (1, False), (2, False), (10, False)]  # a row alone: does it score the same?
    seen.clear()
    estimate(kind(5, 0.1, chunk=4), Objective(sampler, FunctionReward(fn, name="smooth")), noise)
    assert sorted(seen) == [(2, False), (2, False), (2, True), (4, False), (4, False)]


@kinds
def test_terms_and_prompts_go_with_their_rows(kind):
    long = black(lambda x, prompt: x[:, 0] * torch.tensor([len(text) for text in prompt], dtype=f64), "long")
    objective = Objective(model().sampler(), WeightedSum({long: 1.0, Linear(0.5): 2.0}), ["a", "abcdef"])
    noise = objective.sampler.init(2)
    evaluation, direction = estimate(kind(6, 0.1, normalize=False), objective, noise)
    assert torch.equal(evaluation.terms["long"], objective(noise).terms["long"])
    twin, alone = objective.rows([1]), Seeds((1,))
    torch.testing.assert_close(kind(6, 0.1, normalize=False)(twin, noise[1:], alone)[1], direction[1:])


class FixedDraw(Sampler):
    """The sum of its draws, of which the layout holds some still."""

    layout = Layout((Draw("a", (2,), "start"), Draw("b", (2,), "other"), Draw("c", (2,), live=False)))
    nfe = NFE()

    def __call__(self, noise, prompt=None):
        return noise.sum(1)


@kinds
def test_fixed_draws_are_not_perturbed_and_have_no_direction(kind):
    reward = FunctionReward(lambda x: x.sum(1), name="sum")
    _, direction = estimate(kind(4, 0.1), Objective(FixedDraw(), reward), torch.ones(1, 3, 2))
    assert direction[0, 0].any() and not direction[0, 1:].any()
    assert direction.norm().item() == pytest.approx(1)
    if kind is ZerothOrder:  # the perturbation of the others would show in the score: r changes with b and c
        raw = ZerothOrder(1, 0.1, normalize=False)
        _, one = estimate(raw, Objective(FixedDraw(), reward), torch.ones(1, 3, 2))
        xi = one[0, 0] / one[0, 0].norm()
        size = (one[0, 0].norm() / xi.sum().abs()).sqrt()  # one = (xi . 1) xi if nothing else was perturbed
        torch.testing.assert_close(one[0, 0], (size * xi).sum() * size * xi)


@kinds
def test_rows_and_steps_have_perturbations_of_their_own(kind):
    objective = Objective(model().sampler(), black(lambda x: x.prod(1)))
    noise = objective.sampler.init(1).expand(2, -1, -1)
    here, there = (estimate(kind(4, 0.1), objective, noise, step)[1] for step in (0, 1))
    assert (here[0] - here[1]).norm() > 0.01 and (here - there).flatten(1).norm(dim=1).min() > 0.01


@kinds
def test_a_run_resumed_from_any_step_is_bit_for_bit_the_run_that_never_stopped(kind):
    objective = Objective(model().sampler(), black(lambda x: x.prod(1)))
    optimizer, budget = GradientAscent(kind(4, 0.1), lr=0.1), Budget(steps=4)
    whole = list(iterate(objective, objective.sampler.init(2), optimizer=optimizer, budget=budget))
    for k, step in enumerate(whole[:-1]):
        rest = list(iterate(objective, step, optimizer=optimizer, budget=budget))
        assert [torch.equal(one.noise, two.noise) for one, two in zip(whole[k + 1 :], rest, strict=True)] == [True] * (
            4 - k
        )
        assert rest[-1].nfe == whole[-1].nfe


@kinds
def test_a_black_box_is_optimized_to_its_maximum(kind):
    target = torch.tensor([0.8, -0.5, 0.3], dtype=f64)
    quadratic = Quadratic(target)
    objective = Objective(model().sampler(), black(lambda x: quadratic(x, None)))
    optimizer = GradientAscent(kind(8, 0.05, chunk=64), lr=0.1)
    *_, last = iterate(objective, objective.sampler.init(2), optimizer=optimizer, budget=Budget(steps=60))
    assert (last.best.reward > -0.01).all()


def test_hybrids_need_a_graph_through_the_sampler_and_zeroth_order_does_not():
    fn = torch.no_grad()(lambda batch: torch.randn(batch, 2) + torch.randn(batch, 2))
    leaky = nn.Linear(2, 2)
    detached = lambda batch: leaky(torch.randn(batch, 2).detach())  # noqa: E731
    for broken in (fn, detached):
        sampler = FunctionSampler(broken)
        objective = Objective(sampler, black(lambda x: x.sum(1)))
        for kind in (Hybrid1, Hybrid2):
            with pytest.raises(GradientError, match="no gradient reaches the sample.*ZerothOrder") as caught:
                estimate(kind(4, 0.1), objective, sampler.init(1))
            assert "\n" not in str(caught.value)
        assert estimate(ZerothOrder(4, 0.1), objective, sampler.init(1))[1].any()


def test_backprop_names_the_alternatives():
    with pytest.raises(GradientError, match="Hybrid2, Hybrid1 or ZerothOrder, or search .BestOfN, ZeroOrderSearch"):
        Backprop().check(black(lambda x: x.sum(1)))


@kinds
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be a whole number >= 1, got 0"),
        ({"samples": 2.5}, "samples must be .*got 2.5"),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"scale": math.nan}, "scale must be .*got nan"),
        ({"scale": math.inf}, "scale must be .*got inf"),
        ({"chunk": 0}, "chunk must be a whole number >= 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(kind, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        kind(**arguments)


def test_antithetic_pairs_come_in_twos():
    with pytest.raises(ArgumentError, match="samples must be even with antithetic, got 3"):
        ZerothOrder(3, antithetic=True)
