"""Regularizers: zero where noise is plausible, right in their gradient, and blind to what does not move."""

import math

import pytest
import torch

from noiseward.errors import ArgumentError
from noiseward.noise.concentration import log_bounds
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.permutations import get_permutations
from noiseward.noise.regularize import Concentration, NoRegularizer, Shell, probability
from noiseward.noise.typicality import strict_probability

f64 = torch.float64


def layout(size):
    return Layout((Draw("start", (size,), "start", dtype=f64),))


def fresh(size, rows, seed=0):
    return layout(size).draw_noise(range(seed, seed + rows))[:, 0]


def test_fresh_noise_is_plausible_and_scaled_or_shifted_noise_is_not():
    z = fresh(4096, 40)
    likely = probability(z)
    assert 0.02 < likely.min() and likely.max() <= 1 and 0.2 < likely.median() < 0.7
    for implausible in (1.2 * z, 0.8 * z, z + 0.15):
        assert probability(implausible).max() < 0.02


def test_probability_is_the_smallest_bound_met():
    z = 1.1 * fresh(256, 4)
    log1, log2 = log_bounds(z, block=4, permutations=9)
    smallest = torch.cat([log1, log2], 1).exp().amin(1)
    torch.testing.assert_close(probability(z, permutations=9), smallest, rtol=1e-12, atol=0)


def test_an_order_can_give_structure_away_that_others_hide():
    z = torch.tensor([1.0, -1.0] * 500, dtype=f64)[None]  # every block of 2 is (1, -1)
    log1, _ = log_bounds(z, block=2, permutations=10)
    assert log1[0, 0] < -200 and log1[0, 1:].min() > -10
    assert probability(z, block=2) < 1e-80


def test_a_smaller_block_is_taken_when_it_does_not_divide():
    z = fresh(18, 3) * 2
    assert torch.equal(probability(z, block=4), probability(z, block=2))


@pytest.mark.parametrize(("scale", "shift", "bites"), [(0.5, 0.9, (1, 0)), (2.5, 0.0, (1, 1)), (2.5, 2.0, (1, 1))])
def test_the_gradient_of_the_penalty_agrees_with_finite_differences(scale, shift, bites):
    size, h = 32, 1e-6
    penalize = Concentration(0.7, block=2, permutations=3)
    z = (scale * fresh(size, 1) + shift).requires_grad_(True)
    for log, bite in zip(log_bounds(z, block=2, permutations=3), bites, strict=True):
        assert ((log == 0) | (log < -0.02)).all()  # away from where a bound becomes 1
        assert (log.min() < -0.5) == bool(bite)
    (gradient,) = torch.autograd.grad(penalize(z[:, None], layout(size)).sum(), z)
    shifts = h * torch.eye(size, dtype=f64)
    up, down = (penalize((z + sign * shifts).detach()[:, None], layout(size)) for sign in (1, -1))
    torch.testing.assert_close(gradient[0], (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


def test_penalty_and_gradient_are_exactly_zero_where_all_bounds_are_one():
    z = fresh(64, 20).requires_grad_(True)
    log1, log2 = log_bounds(z, block=1, permutations=0)
    plausible = (log1 + log2)[:, 0] == 0
    assert 5 < plausible.sum() < 20
    penalty = Concentration(block=1, permutations=0)(z[:, None], layout(64))
    (gradient,) = torch.autograd.grad(penalty.sum(), z)
    assert torch.equal(penalty == 0, plausible)
    assert torch.equal(gradient.abs().sum(1) == 0, plausible)
    one = z.detach()[plausible][:1].requires_grad_(True)
    (gradient,) = torch.autograd.grad(Concentration(block=1, permutations=5)(one[:, None], layout(64)).sum(), one)
    assert not gradient.any()


def test_the_penalty_is_weight_times_minus_the_mean_log_bounds():
    z = 1.5 * fresh(64, 2)
    log1, log2 = log_bounds(z, block=4, permutations=6)
    penalty = Concentration(3.0, block=4, permutations=6)(z[:, None], layout(64))
    torch.testing.assert_close(penalty, -3 * (log1.mean(1) + log2.mean(1)), rtol=1e-12, atol=0)
    assert not NoRegularizer()(z, layout(64)).any()


def test_fixed_draws_count_for_nothing():
    four = Layout(tuple(Draw(name, (64,), role, live=live) for name, role, live in [
        ("start", "start", True), ("posterior", "other", True), ("step 1", "step", True), ("step 2", "step", False),
    ]))  # fmt: skip
    two = Layout((Draw("start", (64,), "start"), Draw("step 1", (64,))))
    z = 1.3 * fresh(256, 2).view(2, 4, 64)
    z[:, [1, 3]] *= 100
    z.requires_grad_(True)
    penalty = Concentration()(z, four)
    assert torch.equal(penalty, Concentration()(z[:, [0, 2]], two))
    assert torch.equal(probability(z, four), probability(z[:, [0, 2]], two))
    (gradient,) = torch.autograd.grad(penalty.sum(), z)
    assert not gradient[:, [1, 3]].any() and gradient[:, [0, 2]].abs().sum() > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_noise_too_large_to_be_squared_is_impossible_and_its_neighbors_do_not_notice(bad):
    z = fresh(64, 3)
    before, penalty = probability(z), Concentration()(z[:, None], layout(64))
    z[1, 5] = bad
    assert probability(z).tolist() == [before[0], 0, before[2]]
    assert Concentration()(z[:, None], layout(64)).tolist() == [penalty[0], math.inf, penalty[2]]


def test_a_row_does_not_depend_on_how_many_rows_there_are():
    z = 1.1 * fresh(1024, 200).float()  # enough for the permutations to be cut into several passes
    alone = torch.cat([probability(z[row : row + 1]) for row in (0, 99, 199)])
    torch.testing.assert_close(probability(z)[[0, 99, 199]], alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", [Concentration, Shell])
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_bad_weights_are_refused(make, weight):
    with pytest.raises(ArgumentError, match=f"weight must be a number >= 0, got {weight}"):
        make(weight)


@pytest.mark.parametrize("block", [5, 7, 0, -1])
def test_blocks_that_do_not_divide_the_noise_are_refused_naming_some_that_do(block):
    with pytest.raises(ArgumentError, match=rf"block must divide the 16 .* got {block}; .* \[1, 2, 4, 8, 16\]"):
        Concentration(block=block)(fresh(16, 1)[:, None], layout(16))


def published_value(z, permutations, k=4):
    """The published number, by its procedure: log p / 2 clamped at -log 2, the order given once beside the mean."""

    def pair(x):
        blocks = x.view(-1, k)
        m = len(blocks)
        first = -m * blocks.mean(0).norm() ** 2 / (2 * k)
        gap = torch.linalg.matrix_norm(blocks.T @ blocks / m - torch.eye(k, dtype=x.dtype), ord=2)
        second = -m / 2 * max((1 + gap).sqrt() - 1 - math.sqrt(k / m), 0) ** 2
        return sum(min(max(math.log(2) + float(one), -math.inf) - math.log(2), -math.log(2)) for one in (first, second))

    return -pair(z) - sum(pair(z[order]) for order in permutations) / len(permutations)


@pytest.mark.parametrize("family", ["strided", "random"])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.2, 0.0), (1.0, 0.3)])
def test_the_reference_convention_is_the_published_number(family, scale, shift):
    z = scale * fresh(512, 1) + shift
    permutations = get_permutations(512, 20, 4, family, z.device).index()[1:]
    penalty = Concentration(2.0, permutations=20, family=family, convention="reference")(z[:, None], layout(512))
    assert penalty.item() == pytest.approx(2 * published_value(z[0], permutations), rel=1e-9)


def test_the_floor_of_the_reference_convention_is_4_log_2():
    z = fresh(64, 20)
    log1, log2 = log_bounds(z, block=1, permutations=3)
    plausible = ((log1 + log2) == 0).all(1)
    penalty = Concentration(block=1, permutations=3, convention="reference")(z[:, None], layout(64))
    assert 5 < plausible.sum() < 20
    torch.testing.assert_close(penalty.min(), torch.tensor(4 * math.log(2), dtype=f64))
    assert torch.equal((penalty - 4 * math.log(2)).abs() < 1e-12, plausible)


def test_the_shell_is_minus_the_log_density_of_the_norm_of_each_draw():
    two = Layout(
        (Draw("start", (9,), "start", dtype=f64), Draw("step 1", (16,), dtype=f64), Draw("mask", (5,), "other"))
    )
    noise = two.draw_noise([0, 1]).double().requires_grad_()
    penalty = Shell(0.5)(noise, two)
    expected = 0.0
    for part, size in zip(two.split(noise)[:2], (9, 16), strict=True):
        norm = part.norm(dim=1)
        log_density = (size - 1) * norm.log() - norm**2 / 2
        mode = math.sqrt(size - 1)
        expected = expected - 0.5 * (log_density - ((size - 1) * math.log(mode) - mode**2 / 2))
    torch.testing.assert_close(penalty, expected)
    assert (penalty > 0).all()
    (gradient,) = torch.autograd.grad(penalty.sum(), noise)
    start, step, mask = two.split(gradient)
    given = two.split(noise)
    torch.testing.assert_close(start, 0.5 * given[0] * (1 - 8 / given[0].square().sum(1, keepdim=True)))
    torch.testing.assert_close(step, 0.5 * given[1] * (1 - 15 / given[1].square().sum(1, keepdim=True)))
    assert not mask.any()


def test_the_shell_is_zero_on_itself_and_for_one_element_a_parabola():
    noise = fresh(64, 3)
    on = noise / noise.norm(dim=1, keepdim=True) * math.sqrt(63)
    assert Shell(1.0)(on[:, None], layout(64)).abs().max() < 1e-10
    torch.testing.assert_close(Shell(2.0)(fresh(1, 3)[:, None], layout(1)), fresh(1, 3)[:, 0] ** 2)


def test_the_strict_probability_is_had_by_asking_for_it():
    two = Layout((Draw("start", (64,), "start"), Draw("step 1", (64,))))
    noise = two.draw_noise([0, 1, 2])
    noise[1, 0] *= 3
    assert torch.equal(probability(noise, two, strict=True), strict_probability(noise, two)[0].float())
    assert probability(noise, two, strict=True)[1] < 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "sorted"}, "unknown family 'sorted'; did you mean 'strided'"),
        ({"convention": "code"}, "unknown convention 'code'; available: paper, reference"),
        ({"permutations": -1}, "permutations must be >= 0, got -1"),
        ({"permutations": 0, "convention": "reference"}, "permutations must be >= 1, got 0"),
    ],
)
def test_arguments_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Concentration(**arguments)


@pytest.mark.parametrize("judge", [probability, lambda z, where: probability(z, where, strict=True)])
def test_noise_of_another_layout_is_refused(judge):
    with pytest.raises(ArgumentError, match=r"expected shape \(B, 1, 64\), got \(1, 1, 63\)"):
        judge(torch.zeros(1, 1, 63), layout(64))
