"""Buffers that a sampler keeps from run to run, and draws into."""

import weakref

import pytest
import torch
from torch import nn

from noiseward.samplers.function import FunctionSampler

f64 = torch.float64


def out_in_place(kept, batch):
    torch.randn(batch, 3, out=kept, dtype=f64).mul_(2)
    return kept


def out_of_normal(kept, batch):
    torch.normal(torch.ones(batch, 3, dtype=f64), 2.0, out=kept[:batch])
    return kept[:batch].exp() + kept[:batch] ** 2


def normal_of_a_part(kept, batch):
    x = kept[:batch].normal_().exp()
    kept[:batch].normal_(1.0, 2.0)
    return x * kept[:batch]


def normal_of_views(kept, batch):
    """What was read before the next draw keeps its value, and what is read after it through any view does not."""
    view, x = kept[1:], 0
    for part in (kept, view, kept[:2]):
        part.normal_()
        x = x + kept[:batch].exp() * view[:batch] ** 2
    return x


def normal_under_no_grad(kept, batch):
    with torch.no_grad():
        kept.normal_()
    return nn.functional.linear(kept, kept)[:batch]


BUFFERS = [out_in_place, out_of_normal, normal_of_a_part, normal_of_views, normal_under_no_grad]


@pytest.mark.parametrize("fn", BUFFERS)
def test_a_buffer_that_is_kept_can_be_drawn_into_by_every_run(fn):
    def fresh():
        return torch.zeros(3, 3, dtype=f64)

    kept, net = fresh(), nn.Linear(3, 3).double()
    sampler = FunctionSampler(lambda batch: net(fn(kept, batch)), net)
    once = FunctionSampler(lambda batch: net(fn(fresh(), batch)), net)
    torch.manual_seed(7)
    assert torch.equal(once(once.init(1, seed=7)), net(fn(fresh(), 1)))
    for batch in (1, 2, 1):
        noises = [sampler.init(batch, seed=seed).requires_grad_() for seed in (1, 2)]
        samples = [sampler(noise) for noise in noises]  # the second run comes before the gradient of the first
        for noise, sample in zip(noises, samples, strict=True):
            again = once(noise)
            assert torch.equal(sample, again)
            (gradient,), (right,) = (torch.autograd.grad(x.square().sum(), noise) for x in (sample, again))
            assert torch.equal(gradient, right)
    assert torch.autograd.gradcheck(sampler, sampler.init(1).requires_grad_())
    assert kept.grad_fn is None


def test_a_parameter_that_is_kept_can_be_drawn_into():
    weight = nn.Parameter(torch.zeros(3, 3, dtype=f64))

    def fn():
        nn.init.normal_(weight)
        return torch.randn(1, 3, dtype=f64) @ weight

    assert torch.autograd.gradcheck(FunctionSampler(fn), FunctionSampler(fn).init(1).requires_grad_())


def test_what_was_drawn_first_is_what_was_drawn_into_again_also_when_nothing_else_holds_it():
    def twice(batch):
        buffer = torch.empty(batch, 3, dtype=f64)
        first = buffer.normal_()
        buffer.normal_()
        return first

    sampler = FunctionSampler(twice)
    noise = sampler.init(2)
    assert torch.equal(sampler(noise), noise[:, 1])


def test_a_tensor_that_is_drawn_into_once_is_not_kept():
    alive = []

    def fn(batch):
        x, drawn = torch.zeros(batch, 3), []
        for _ in range(5):
            z = torch.empty(batch, 3)
            drawn += [weakref.ref(z), weakref.ref(z.normal_())]
            x = x + z
            del z
        alive.append(sum(one() is not None for one in drawn))
        return x

    sampler = FunctionSampler(fn)
    noise = sampler.init(1)
    with torch.no_grad():
        sampler(noise)
    assert alive[-1] == 0
