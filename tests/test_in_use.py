"""A model runs in one thread at a time: a second one is refused, and the first one is left alone."""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from noiseward import FunctionSampler, align, steps
from noiseward.errors import ModelInUse
from noiseward.samplers import recompute as recompute_module
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.in_use import occupy
from tests.tiny import CALL, stable_diffusion

OTHER = -1  # a thread that is not this one


class Net(nn.Module):
    """A denoiser that can be made to wait in its call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.called, self.go = threading.Event(), threading.Event()
        self.go.set()

    def forward(self, x):
        self.called.set()
        assert self.go.wait(60)
        return self.linear(x).tanh()


def walk(net, **how):
    def fn(batch):
        x = torch.randn(batch, 3)
        for _ in range(2):
            x = x + net(x) * 0.5 + 0.1 * torch.randn(batch, 3)
        return x

    return FunctionSampler(fn, net, **how)


@contextlib.contextmanager
def meanwhile(work, reached, go):
    """In the body, a thread works that has reached an event, and goes on after the body."""
    reached.clear()
    go.clear()
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    try:
        assert reached.wait(60)
        yield found
    finally:
        go.set()
        thread.join(60)


def count(sampler, noise):
    with count_calls() as meter:
        return sampler(noise), meter.nfe


def test_a_run_in_another_thread_is_refused_and_the_first_is_as_if_alone():
    net = Net()
    first, second = walk(net), walk(net)
    noise = first.init(2, seed=3)
    alone = first(noise)
    with meanwhile(lambda: count(first, noise), net.called, net.go) as found:
        with pytest.raises(ModelInUse, match="Net is already being run in another thread; wait for it, or give each"):
            second(noise)
    ((sample, nfe),) = found
    assert torch.equal(sample, alone) and nfe == NFE(forward=2)
    assert "forward" not in vars(net) and torch.equal(second(noise), alone)


def test_a_gradient_that_runs_the_model_again_is_refused_too():
    net = Net()
    sampler = walk(net, recompute=True)
    sample = sampler(sampler.init(1).requires_grad_())
    with occupy(net, OTHER), pytest.raises(ModelInUse):
        sample.sum().backward(retain_graph=True)
    sample.sum().backward()


def test_a_pipeline_is_its_runs_until_that_ends():
    pipe, scored, go = stable_diffusion(), threading.Event(), threading.Event()

    def wait(images):
        scored.set()
        assert go.wait(60)
        return images.mean((1, 2, 3))

    def run():
        return align(pipe, "a", wait, steps=1, progress=False, **CALL)

    with (
        meanwhile(run, scored, go) as found,
        pytest.raises(ModelInUse, match="StableDiffusionPipeline is already being run"),
    ):
        align(pipe, "a", "brightness", steps=1, progress=False, **CALL)
    assert (found[0].gain > 0).all()
    assert align(pipe, "a", "brightness", steps=1, progress=False, **CALL).gain > 0


def test_in_one_thread_runs_may_be_nested_and_take_turns():
    net = Net()
    inner = walk(net)
    noise = inner.init(1, seed=5)
    outer = FunctionSampler(lambda batch: inner(torch.randn(batch, 3, 3)) + net(torch.randn(batch, 3)), net)
    assert outer(outer.init(2)).shape == (2, 3)
    how = {"method": "dno", "steps": 3, "progress": False}
    alone = align(inner, None, lambda x: x.sum(1), **how)
    runs = [steps(inner, None, lambda x: x.sum(1), **how) for _ in range(2)]
    for _ in zip(*runs, strict=True):
        pass
    assert all(torch.equal(run.solution.noise, alone.noise) for run in runs)
    assert torch.equal(inner(noise), walk(net)(noise)) and "forward" not in vars(net)


def test_copies_run_in_as_many_threads():
    """The second one is found out from within to beyond the time that the first one is."""
    nets, done, own = [Net(), Net()], threading.Event(), torch.from_numpy
    nets[1].load_state_dict(nets[0].state_dict())

    def let_go(*_):
        nets[0].go.set()
        assert done.wait(60)

    nets[1].register_forward_pre_hook(let_go)

    def run(net):
        sampler = walk(net)
        found = count(sampler, sampler.init(1))
        done.set()
        return found

    with meanwhile(lambda: run(nets[0]), nets[0].called, nets[0].go) as found:
        sample, nfe = run(nets[1])
    assert torch.equal(found[0][0], sample) and found[0][1] == nfe
    assert torch.from_numpy is own


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_what_was_refused_is_not_taken_for_a_fault_of_the_sampler(at):
    calls = []

    def fn(batch):
        calls.append(batch)
        with occupy(calls, OTHER if len(calls) == at else None):
            return torch.randn(batch, 3)

    sampler = FunctionSampler(fn)
    noise = torch.zeros(2, 1, 3, requires_grad=True)
    with occupy(calls), pytest.raises(ModelInUse):
        sampler(noise)
    sampler(noise).sum().backward()
    assert sampler.alone is None and noise.grad.abs().min() > 0


def in_a_thread(function):
    """The same function, run in a thread of its own, as a GPU's gradients are."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, *args, **kwargs).result()

    return call


@pytest.mark.parametrize("memory", ["balanced", "low"])
@pytest.mark.parametrize("method", ["dno:guard=none", "ntrk:guard=none"])
def test_what_a_gradient_recomputes_in_a_thread_of_its_device_is_the_work_of_the_run(monkeypatch, memory, method):
    how = {"method": method, "memory": memory, "steps": 1, "watch": (), "progress": False, **CALL}
    alone = align(stable_diffusion(), "a", "brightness", **how)
    threads, own = [], recompute_module._Call.repeat

    def repeat(call, inputs):
        threads.append(threading.get_ident())
        return own(call, inputs)

    monkeypatch.setattr(recompute_module._Call, "repeat", repeat)
    for owner, name in ((torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")):
        monkeypatch.setattr(owner, name, in_a_thread(getattr(owner, name)))
    found = align(stable_diffusion(), "a", "brightness", **how)
    assert threads and threading.get_ident() not in threads
    assert torch.equal(found.noise, alone.noise) and torch.equal(found.sample, alone.sample)
