"""What a FunctionSampler finds out about its function, once: unseen randomness, roles, and dead draws."""

import numpy
import pytest
import torch
from torch import nn

from noiseward.errors import DrawMismatch, TapeError, UnseenRandomness
from noiseward.noise.tape import aside
from noiseward.samplers.function import FunctionSampler
from noiseward.toys import GaussianModel


class Counter:
    now = 0.0

    @classmethod
    def next(cls):
        cls.now += 1.0
        return cls.now


UNSEEN = {
    "numpy": lambda batch: torch.randn(batch, 2) + torch.from_numpy(numpy.random.randn(batch, 2)),
    "Box-Muller from torch.rand": lambda batch: (
        torch.randn(batch, 2) + (-2 * torch.rand(batch, 2).log()).sqrt() * (6.28 * torch.rand(batch, 2)).cos()
    ),
    "dropout": lambda batch: nn.functional.dropout(torch.randn(batch, 20), 0.5),
    "a global counter": lambda batch: torch.randn(batch, 2) + Counter.next(),
    "exponential_": lambda batch: torch.randn(batch, 2) + torch.empty(batch, 2).exponential_(),
}


@pytest.mark.parametrize("fn", UNSEEN.values(), ids=UNSEEN)
def test_randomness_the_tape_cannot_see_is_an_error(fn):
    with pytest.raises(UnseenRandomness, match="cannot see"):
        FunctionSampler(fn).init()


class Noisy(nn.Module):
    def forward(self, x):
        return x + 1e-6 * torch.randn_like(x)


@pytest.mark.parametrize("denoiser", [Noisy(), nn.Dropout(0.5)], ids=["draws", "dropout"])
@pytest.mark.parametrize("recompute", [False, True])
def test_randomness_inside_the_denoiser_is_an_error(denoiser, recompute):
    sampler = FunctionSampler(lambda batch: denoiser(torch.randn(batch, 20)), denoiser, recompute=recompute)
    with pytest.raises(UnseenRandomness):
        sampler.init()


def test_a_sample_of_random_shape_is_unseen_randomness_too():
    sizes = iter([2, 3])
    with pytest.raises(UnseenRandomness, match=r"shape \(1, 3\), not \(1, 2\)"):
        FunctionSampler(lambda batch: torch.randn(batch, 5)[:, : next(sizes)]).init()


@pytest.mark.parametrize(
    ("fn", "turns", "message"),
    [
        (lambda n: sum(torch.randn(1, 2) for _ in range(n)), [3, 4], "draw number 4 of shape .1, 2."),
        (lambda n: sum(torch.randn(1, 2) for _ in range(n)), [3, 2], "'step 2' and later"),
        (lambda n: torch.randn(1, 1) * torch.randn(1, n), [3, 4], "'step 1' with shape .1, 4."),
        (lambda n: torch.randn(n, 1) @ torch.randn(1, n), [2, 1], "'start' with shape .1, 1., the rec.* has .2, 1."),
    ],
    ids=["more", "fewer", "another shape", "another shape first"],
)
def test_draws_that_change_from_run_to_run_are_an_error_naming_the_draw(fn, turns, message):
    turn = iter(turns)
    with pytest.raises(DrawMismatch, match=message):
        FunctionSampler(lambda batch: fn(next(turn))[:1]).init()


def two_starts(net):
    def fn(batch):
        x = net(torch.randn(batch, 2) + torch.randn(batch, 2))
        return net(x + torch.randn(batch, 2)) + 0.0 * torch.randn(batch, 2)

    return fn


def test_draws_before_the_first_denoiser_call_are_starts_and_later_ones_steps():
    net = nn.Tanh()
    layout = FunctionSampler(two_starts(net), net).layout
    assert [(draw.name, draw.role) for draw in layout] == [
        ("start 1", "start"), ("start 2", "start"), ("step 1", "step"), ("step 2", "step"),
    ]  # fmt: skip


def test_without_a_denoiser_the_first_draw_is_the_start():
    layout = FunctionSampler(two_starts(nn.Tanh())).layout
    assert [draw.role for draw in layout] == ["start", "step", "step", "step"]


def test_draws_without_weight_are_found_dead_and_only_those():
    weights = (1.0, 1e-9, 1e-3, 0.0)
    faint = FunctionSampler(lambda batch: sum(weight * torch.randn(batch, 2) for weight in weights))
    assert faint.layout.dead == ("step 1", "step 3")
    assert GaussianModel(steps=6, eta=1.0).sampler().layout.dead == ("step 6",)
    assert GaussianModel(steps=6, eta=0.0).sampler().layout.dead == ()


@pytest.mark.parametrize(
    "fn",
    [torch.no_grad()(lambda batch: torch.randn(batch, 2) * 2), lambda batch: torch.randn(batch, 2).round()],
    ids=["no gradient", "zero gradient"],
)
def test_a_sampler_without_a_gradient_has_no_draw_known_to_be_dead(fn):
    assert FunctionSampler(fn).layout.dead == ()


def test_a_gradient_of_something_else_than_the_draws_is_not_theirs():
    net = nn.Linear(2, 2)
    assert FunctionSampler(lambda batch: net(torch.randn(batch, 2).detach())).layout.dead == ()


def with_a_posterior(net):
    def fn(batch):
        with aside():
            image = 0.5 + 0.1 * torch.randn(batch, 2)
        x = net(torch.randn(batch, 2) + image)
        with aside():
            mask = torch.randn(batch, 2)
        return net(x + torch.randn(batch, 2)) + mask

    return fn


@pytest.mark.parametrize("named", [True, False], ids=["with a denoiser", "without"])
def test_draws_made_aside_are_other_and_fixed(named):
    net = nn.Tanh()
    layout = FunctionSampler(with_a_posterior(net), net if named else None).layout
    assert [(draw.name, draw.role, draw.movable) for draw in layout] == [
        ("other 1", "other", False), ("start", "start", True), ("other 2", "other", False), ("step 1", "step", True),
    ]  # fmt: skip
    moved = layout.zero_fixed(torch.ones(1, 4, 2))
    assert moved[0, :, 0].tolist() == [0, 1, 0, 1]


def test_a_sampler_whose_draws_are_all_aside_has_nothing_to_optimize():
    def fn(batch):
        with aside():
            return torch.randn(batch, 2)

    with pytest.raises(TapeError, match="nothing to optimize"):
        FunctionSampler(fn).init()
