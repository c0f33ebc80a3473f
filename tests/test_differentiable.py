"""Foreign code run with its gradient: what is lifted, what is not, and what is said where a graph is cut."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from noiseward import FunctionReward, FunctionSampler, GradientError, NoisewardWarning, align, differentiable

f64 = torch.float64
MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def score_sde(net, batch):
    """Its `with torch.no_grad():` is in the body."""
    with torch.no_grad():
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(3):
            x = x + 0.3 * net(x) + 0.2 * torch.randn_like(x)
        return x


def improved_diffusion(net, batch):
    """A generator that yields states, each made under `no_grad`."""

    def progressive():
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(3):
            with torch.no_grad():
                x = x + 0.3 * net(x) + 0.2 * torch.randn_like(x)
                yield x

    *_, last = progressive()
    return last


@torch.inference_mode()
def denoising_diffusion_pytorch(net, batch):
    x = torch.randn(batch, 3, dtype=f64)
    for _ in range(3):
        x = torch.no_grad()(lambda x: x + 0.3 * net(x) + 0.2 * torch.randn_like(x))(x)
    return x


def switch_off(net, batch):
    torch.set_grad_enabled(False)
    try:
        return net(torch.randn(batch, 3, dtype=f64))
    finally:
        torch.set_grad_enabled(True)


def rectified_flow(net, batch):
    """Detached at the start and at every step, under `no_grad`."""
    with torch.no_grad():
        x = torch.randn(batch, 3, dtype=f64).detach().clone()
        for _ in range(3):
            x = x.detach().clone() + 0.3 * net(x) + 0.2 * torch.randn_like(x)
        return x


def half_cut(net, batch):
    """Detached at every step, but not at the start: what is left of the gradient goes through the network alone."""
    x = torch.randn(batch, 3, dtype=f64)
    for _ in range(3):
        x = x.detach() + 0.3 * net(x)
    return x


def walk_of(draw):
    """A step whose noise is drawn by torch.distributions."""

    def sample(net, batch):
        x = torch.randn(batch, 3, dtype=f64)
        return draw(torch.distributions.Normal(x + 0.3 * net(x), 0.2))

    return sample


FOREIGN = {
    "score_sde": (score_sde, False),
    "improved-diffusion": (improved_diffusion, False),
    "denoising-diffusion-pytorch": (denoising_diffusion_pytorch, False),
    "switched": (switch_off, False),
    "RectifiedFlow": (rectified_flow, True),
    "half cut": (half_cut, True),
    "torch.distributions, as advised": (walk_of(lambda step: step.rsample()), False),
}


@pytest.mark.parametrize(("fn", "detach"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("named", [True, False], ids=["with a denoiser", "without"])
def test_foreign_samplers_have_the_gradient_of_finite_differences(fn, detach, named):
    net = network()
    sampler = FunctionSampler(
        differentiable(detach=detach)(lambda batch: fn(net, batch)), net if named else None
    )  # fmt: skip
    noise = sampler.init(1).requires_grad_()
    assert torch.autograd.gradcheck(sampler, noise)
    torch.manual_seed(7)
    assert torch.equal(sampler(sampler.init(1, seed=7)), fn(net, 1))
    assert (align(sampler, None, MEAN, steps=3, method="dno:lr=0.1", progress=False).gain > 0).all()


CUT = {
    "no_grad in the body": (
        score_sde,
        r"torch.no_grad\(\) at test_differentiable.py:\d+ .*noiseward.differentiable\(\)",
    ),
    "no_grad on a method": (
        lambda net, batch: torch.no_grad()(half_cut)(net, batch),
        r"torch.no_grad\(\) on half_cut at test_differentiable.py:\d+ .*differentiable\(\)",
    ),
    "inference mode": (denoising_diffusion_pytorch, r"torch.inference_mode\(\).*noiseward.differentiable\(\)"),
    "detach": (
        lambda net, batch: differentiable()(rectified_flow)(net, batch),
        r"from start.*, though it depends on it: Tensor.detach at test_differentiable.py:\d+ .*detach=True",
    ),
    "numpy": (
        lambda net, batch: torch.from_numpy(net(torch.randn(batch, 3, dtype=f64)).detach().numpy()),
        r"Tensor.detach at test_differentiable.py",
    ),
    "data": (lambda net, batch: net(torch.randn(batch, 3, dtype=f64).data), "Tensor.data at .*keep to torch there"),
    "a distribution": (
        walk_of(lambda step: step.sample()),
        r"sample\(\) of torch.distributions at test_differentiable.py:\d+ cuts its graph; call rsample\(\) there;",
    ),
}


@pytest.mark.parametrize(("fn", "message"), CUT.values(), ids=CUT)
@pytest.mark.parametrize("named", [True, False], ids=["with a denoiser", "without"])
def test_what_cuts_a_graph_is_named_with_its_line_and_what_lifts_it(fn, message, named):
    net = network().requires_grad_(False)
    sampler = FunctionSampler(lambda batch: fn(net, batch), net if named else None)
    with pytest.raises(GradientError, match=message) as caught:
        align(sampler, None, MEAN, steps=2, progress=False)
    assert "\n" not in str(caught.value)
    assert sampler.layout.dead == ()
    black = FunctionReward(MEAN, differentiable=False, name="black")
    assert (align(sampler, None, black, steps=2, progress=False).gain > 0).all()


def test_a_start_that_was_cut_off_is_not_called_without_effect():
    net = network()
    sampler = FunctionSampler(differentiable()(lambda batch: rectified_flow(net, batch)), net)
    assert sampler.layout.dead == ()


def test_a_partly_cut_gradient_is_reported():
    net = network()
    sampler = FunctionSampler(lambda batch: half_cut(net, batch), net)
    noise = sampler.init(1).requires_grad_()
    with pytest.warns(
        NoisewardWarning, match=r"\d+% off finite differences: Tensor.detach at test_differ.*detach=True"
    ):
        sampler(noise)


def test_a_harmless_detach_says_nothing():
    net = network()

    def fn(batch):
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(2):
            scale = x.detach().abs().max().ceil()
            x = x + 0.3 * net(x) + 0.0 * scale + 0.2 * torch.randn_like(x)
        return x

    sampler = FunctionSampler(fn, net)
    sampler(sampler.init(1).requires_grad_())


def test_a_denoiser_that_has_no_gradient_of_its_own_is_named():
    net = network()
    plain = net.forward
    net.forward = torch.no_grad()(plain)
    for recompute in (False, True):
        sampler = FunctionSampler(
            lambda batch: (x := torch.randn(batch, 3, dtype=f64)) + 3 * net(x), net, recompute=recompute
        )
        with pytest.warns(NoisewardWarning, match="off finite differences: the denoiser Sequential returns a constant"):
            sampler(sampler.init(1).requires_grad_())


def test_what_is_not_foreign_keeps_its_meaning():
    x = torch.ones(2, requires_grad=True)
    with differentiable(detach=True):
        (gradient,) = torch.autograd.grad(checkpoint(lambda x: x * 3, x, use_reentrant=False).sum(), x)
        nn.init.normal_(nn.Linear(2, 2).weight)
        optimizer = torch.optim.SGD([x], lr=0.1)
        x.grad = gradient
        optimizer.step()
        assert x.detach() is x
    assert gradient.tolist() == [3, 3] and x.tolist() == pytest.approx([0.7, 0.7])
    assert x.detach() is not x and not x.detach().requires_grad


def test_a_no_grad_outside_continues():
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad(), differentiable():
        assert not (2 * x).requires_grad
    with differentiable(), torch.no_grad(), torch.inference_mode(), torch.set_grad_enabled(False):
        assert (2 * x).requires_grad and not (2 * x).is_inference()
    with torch.no_grad():
        assert not torch.is_grad_enabled()


def test_align_in_the_body_of_a_with_is_the_same():
    net = network()
    solutions = []
    with differentiable():
        solutions.append(align(FunctionSampler(lambda batch: score_sde(net, batch), net), None, MEAN, progress=False))
    fn = differentiable()(lambda batch: score_sde(net, batch))
    solutions.append(align(FunctionSampler(fn, net), None, MEAN, progress=False))
    assert torch.equal(*(solution.noise for solution in solutions)) and (solutions[0].gain > 0).all()


def test_nesting_and_other_threads():
    x, elsewhere = torch.ones(2, requires_grad=True), []

    def other():
        with torch.no_grad():
            elsewhere.append((2 * x).requires_grad)

    with differentiable(detach=True):
        with differentiable():
            assert x.detach() is x
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with torch.no_grad():
            assert (2 * x).requires_grad
    assert elsewhere == [False]


@pytest.mark.parametrize("detach", [False, True])
def test_what_is_lifted_in_a_denoiser_is_lifted_when_it_is_recomputed(detach):
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        @torch.no_grad()
        def forward(self, x):
            return self.net(x.detach() if detach else x)

    net = Foreign()
    fn = differentiable(detach=detach)(lambda batch: (x := torch.randn(batch, 3, dtype=f64)) + net(x))
    sampler = FunctionSampler(fn, net, recompute=True)
    assert torch.autograd.gradcheck(sampler, sampler.init(2).requires_grad_())
