"""Samplers without a gradient, or with one that fails: searched all the same, and clear where one is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noiseward import FunctionReward, FunctionSampler, GradientError, NoisewardWarning, TapeError, align
from noiseward.noise.tape import aside

f64 = torch.float64
MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")
BLACK = FunctionReward(MEAN, differentiable=False, name="black")


class Forward(torch.autograd.Function):
    """An operation without a backward."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("derivative for aten::forward_only is not implemented on CPU")


def no_backward(batch):
    return Forward.apply(torch.randn(batch, 2)) + torch.randn(batch, 2)


def in_place(batch):
    x = torch.randn(batch, 2)
    y = x.exp()
    y.add_(1.0)
    return y + torch.randn(batch, 2)


def in_place_on_a_view(batch):
    x = torch.randn(batch, 2)
    for part in x.unbind(1):
        part.mul_(2.0)
    return x + torch.randn(batch, 2)


def inference(batch):
    return torch.randn(batch, 2) * WEIGHT + torch.randn(batch, 2)


with torch.inference_mode():
    WEIGHT = torch.full((2,), 3.0)

FAILING = {
    "no backward": (no_backward, r"NotImplementedError: derivative for aten::forward_only .*"),
    "in place": (in_place, r"modified by an inplace operation.*\(from the call at test_gradientless.py:35\)"),
    "in place on a view": (in_place_on_a_view, "at test_gradientless.py:43 .*RuntimeError: "),
    "made in inference mode": (inference, r"made inside torch.inference_mode\(\); make them outside"),
}


@pytest.mark.parametrize(("fn", "message"), FAILING.values(), ids=FAILING)
def test_a_search_continues_where_the_gradient_fails_and_a_gradient_is_refused_naming_the_place(fn, message):
    sampler = FunctionSampler(fn)
    with pytest.warns(NoisewardWarning, match="all its draws count as live, and only a search can change them"):
        solution = align(sampler, None, BLACK, steps=3, progress=False)
    assert (solution.gain > 0).all() and solution.dead_draws == ()
    with pytest.raises(GradientError, match=message) as caught:
        align(sampler, None, MEAN, steps=3, progress=False)
    assert "\n" not in str(caught.value) and "ZerothOrder or a search" in str(caught.value)


def test_a_search_pays_no_more_than_a_recording_and_a_replay():
    runs = []

    def fn(batch):
        runs.append(torch.is_grad_enabled())
        return no_backward(batch)

    with pytest.warns(NoisewardWarning):
        FunctionSampler(fn).init()
    assert runs == [False, True, False]


def test_cheaper_gradients_that_go_around_the_denoiser_still_work():
    class Net(nn.Module):
        def forward(self, x):
            return 0.1 * Forward.apply(x)

    net = Net()

    def fn(batch):
        x = torch.randn(batch, 2)
        for _ in range(3):
            x = x - net(x) + 0.1 * torch.randn(batch, 2)
        return x

    sampler = FunctionSampler(fn, net)
    with pytest.warns(NoisewardWarning, match="its gradient fails"):
        sampler.init()
    solution = align(
        sampler, None, MEAN, steps=3, method="dno:lr=0.1,estimator=backprop:through=linear", progress=False
    )
    assert (solution.gain > 0).all()


def test_an_error_that_has_nothing_to_do_with_gradients_is_raised_as_it_is():
    def fn(batch):
        torch.randn(batch, 2)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        FunctionSampler(fn).init()


def nothing_else(batch):
    with aside():
        shift = torch.randn(batch, 2)
    return 0 * torch.randn(batch, 2) + shift


def everything_dead(batch):
    return torch.ones(batch, 2) + 0 * torch.randn(batch, 2) + 0 * torch.randn(batch, 2)


def everything_dead_without_a_graph(batch):
    torch.randn(batch, 2)
    return torch.ones(batch, 2)


NOTHING = {
    "dead beside aside": (
        nothing_else,
        r"no draw of the sampler may change: other \(made aside\), start \(without effect\)",
    ),
    "dead": (everything_dead, r"depends on no draw \(start, step 1\)"),
    "dead without a graph": (everything_dead_without_a_graph, r"depends on no draw \(start\)"),
}


@pytest.mark.parametrize("reward", [MEAN, BLACK], ids=["gradient", "search"])
@pytest.mark.parametrize(("fn", "message"), NOTHING.values(), ids=NOTHING)
def test_where_no_draw_may_change_the_draws_are_named(fn, message, reward):
    with pytest.raises(TapeError, match=message) as caught:
        align(FunctionSampler(fn), None, reward, steps=2, progress=False)
    assert "\n" not in str(caught.value)


def test_draws_whose_gradient_is_not_finite_are_named():
    def fn(batch):
        x = torch.randn(batch, 2) + torch.randn(batch, 2)
        return (x - x).abs().sqrt() + x + torch.randn(batch, 2)

    sampler = FunctionSampler(fn)
    with pytest.warns(NoisewardWarning, match="its gradient is not finite at start, step 1: these draws count as live"):
        assert (align(sampler, None, BLACK, steps=2, progress=False).gain > 0).all()
    with pytest.raises(GradientError, match="its gradient is not finite at start, step 1"):
        align(sampler, None, MEAN, steps=2, progress=False)


def test_dead_draws_are_found_for_searches_as_well():
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 2) + 0 * torch.randn(batch, 2))
    solution = align(sampler, None, BLACK, steps=2, progress=False)
    assert solution.dead_draws == ("step 1",)
    start = sampler.init(1)
    assert torch.equal(solution.noise[:, 1], start[:, 1])


def test_a_draw_that_matters_by_its_sign_alone_is_live():
    sampler = FunctionSampler(lambda batch: torch.randn(batch, 20) + torch.randn(batch, 20).sign())
    assert sampler.layout.dead == ()
    assert (align(sampler, None, MEAN, steps=2, progress=False).gain > 0).all()


def test_a_gradient_that_fails_when_recomputed_is_found_where_activations_are_kept():
    class Returned:
        def __init__(self, mean):
            self.mean = mean

    class Net(nn.Module):
        def forward(self, x):
            return Returned(x.tanh())

    net = Net()
    sampler = FunctionSampler(lambda batch: net(torch.randn(batch, 2)).mean, net, recompute=True)
    with pytest.warns(NoisewardWarning, match="hides|cannot see the tensors in it"):
        noise = sampler.init(1).requires_grad_()
    with pytest.raises(GradientError, match="recompute=False"):
        sampler(noise)
    assert torch.autograd.grad(sampler.with_memory(False)(noise).sum(), noise)[0].all()
