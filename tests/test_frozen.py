"""Weights are frozen while a sampler lives, given back afterwards, and no checkpoint of a model's own is broken."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noiseward import FunctionReward, FunctionSampler, GradientError, NoisewardWarning, align
from noiseward.samplers.frozen import Frozen

f64 = torch.float64
MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")


class Checkpointed(torch.autograd.Function):
    """As guided-diffusion and CompVis' latent-diffusion have it: weights are inputs, whose gradients are asked for."""

    @staticmethod
    def forward(ctx: Any, run: Any, length: int, *args: Tensor) -> Any:
        ctx.run, ctx.inputs, ctx.weights = run, list(args[:length]), list(args[length:])
        with torch.no_grad():
            return ctx.run(*ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.inputs = [x.detach().requires_grad_(True) for x in ctx.inputs]
        with torch.enable_grad():
            outputs = ctx.run(*[x.view_as(x) for x in ctx.inputs])
        found = torch.autograd.grad(outputs, ctx.inputs + ctx.weights, gradients, allow_unused=True)
        return None, None, *found


class Block(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.body, self.how = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)), how

    def forward(self, x: Tensor) -> Any:
        if self.how == "own":
            return Checkpointed.apply(self.body, 1, x, *self.body.parameters())
        if self.how == "torch":
            return checkpoint(self.body, x, use_reentrant=False)
        return self.body(x)


def network(how: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(how) for _ in range(3))).double()


def sampler(net: nn.Module, recompute: bool = False) -> FunctionSampler:
    def fn(batch: int) -> Tensor:
        x = torch.randn(batch, 3, dtype=f64)
        for _ in range(3):
            x = x + 0.3 * net(x) + 0.2 * torch.randn(batch, 3, dtype=f64)
        return x

    return FunctionSampler(fn, net, recompute=recompute)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["own", "torch", "none"])
def test_gradients_through_any_checkpoint_are_those_of_finite_differences(how, recompute):
    net = network(how)
    tape = sampler(net, recompute)
    noise = tape.init(2).requires_grad_()
    assert torch.autograd.gradcheck(tape, noise)
    (gradient,) = torch.autograd.grad(tape(noise).sum(), noise)
    plain = sampler(network("none"))
    (expected,) = torch.autograd.grad(plain(noise).sum(), noise)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["own", "torch", "none"])
def test_nothing_but_the_noise_gets_a_gradient(how, recompute):
    net = network(how)
    tape = sampler(net, recompute)
    noise = tape.init(2).requires_grad_()
    tape(noise).sum().backward()
    assert noise.grad is not None and noise.grad.abs().min() > 0
    assert all(weight.grad is None for weight in net.parameters())
    assert (align(tape, None, MEAN, steps=2, method="dno:lr=0.1", progress=False).gain > 0).all()
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("how", ["own", "none"])
def test_weights_are_restored(how):
    net = network(how)
    kept = net[0].body[0].bias.requires_grad_(how == "own")
    tape = sampler(net)
    tape(tape.init(2).requires_grad_()).sum().backward()
    assert how == "own" or not any(weight.requires_grad for weight in net.parameters())
    del tape
    gc.collect()
    assert all(weight.requires_grad for weight in net.parameters() if weight is not kept)
    assert kept.requires_grad == (how == "own")


def test_a_checkpoint_that_needs_frozen_weights_is_named():
    tape = sampler(network("own").requires_grad_(False))
    with pytest.warns(NoisewardWarning, match="its own checkpoint function wants the gradient of frozen weights"):
        noise = tape.init(1)
    with pytest.raises(GradientError, match="requires_grad_.True., or turn its checkpointing off"):
        tape(noise.requires_grad_())


def test_a_sampler_that_fails_leaves_no_model_frozen():
    net = network("none")
    failed = FunctionSampler(lambda batch: net(torch.randn(batch, 4, dtype=f64)), net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        failed.init()
    assert all(weight.requires_grad for weight in net.parameters())


def test_weights_stay_frozen_as_long_as_anybody_holds_them():
    net = network("none")
    one, two = Frozen([net]), Frozen([net])
    one.release()
    one.release()
    assert not any(weight.requires_grad for weight in net.parameters())
    two.release()
    assert all(weight.requires_grad for weight in net.parameters())
    one.hold()
    assert not any(weight.requires_grad for weight in net.parameters())
