"""The denoiser's calls: counted, off the tape, and the same gradient from recomputed activations."""

import dataclasses
import gc

import pytest
import torch
from diffusers.utils import BaseOutput
from torch import nn

from noiseward.errors import GradientError
from noiseward.noise.tape import replay
from noiseward.samplers.cost import NFE, Meter
from noiseward.samplers.recompute import drive


@dataclasses.dataclass
class Prediction(BaseOutput):
    sample: torch.Tensor = None  # type: ignore[assignment]
    residuals: tuple = ()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    return net.double().requires_grad_(False)


class Denoiser(nn.Module):
    """Takes and returns whatever a test says, around one network."""

    def __init__(self, body):
        super().__init__()
        self.net, self.body = network(), body

    def forward(self, *args, **kwargs):
        return self.body(self.net, *args, **kwargs)


def run(module, fn, recompute, meter=None):
    with replay([], []) as tape, drive(module, tape=tape, meter=meter or Meter(), recompute=recompute):
        return fn()


# body of the denoiser, and a scalar made of its result for two inputs x and y
NESTINGS = {
    "a tensor": (lambda net, x, y: net(x + y), lambda d, x, y: d(x, y).sum()),
    "named arguments": (lambda net, x, *, y: net(x * y), lambda d, x, y: d(x, y=y).prod()),
    "dict in": (lambda net, kw: net(kw["x"] - kw["more"]["y"]), lambda d, x, y: d({"x": x, "more": {"y": y}}).sum()),
    "list in": (lambda net, x, parts: net(x) + sum(parts), lambda d, x, y: d(x, [y, (2 * y)]).norm()),
    "tuple out": (lambda net, x, y: (net(x), net(y)), lambda d, x, y: (d(x, y)[0] * d(x, y)[1]).sum()),
    "dict out": (lambda net, x, y: {"e": net(x), "v": [net(x * y)]}, lambda d, x, y: (d(x, y)["v"][0] ** 2).sum()),
    "output object": (
        lambda net, x, y: Prediction(net(x), (net(y), net(x + y))),
        lambda d, x, y: d(x, y).sample.sum() + (d(x, y).residuals[0] * d(x, y)[1][1]).sum(),
    ),
    "settings beside tensors": (
        lambda net, x, scale, flag, y=None: (net(x) * scale, flag) if y is None else (net(x * y) * scale, flag),
        lambda d, x, y: d(x, 2.5, "text")[0].sum() + d(x, 0.5, None, y=y)[0].sum(),
    ),
    "an integer among the inputs": (
        lambda net, x, t, y: net(x * t) + y,
        lambda d, x, y: d(x, torch.tensor(3), y).square().sum(),
    ),
    "an integer among the outputs": (
        lambda net, x, y: (net(x * y), torch.arange(3)),
        lambda d, x, y: (d(x, y)[0] * d(x, y)[1]).sum(),
    ),
    "an input handed back": (lambda net, x, y: (net(x), y), lambda d, x, y: (d(x, y)[0] * d(x, y)[1]).sum()),
    "an input left unused": (lambda net, x, y: net(x), lambda d, x, y: d(x, y).sum() + y.sum()),
    "an input without gradient": (lambda net, x, y: net(x) * y, lambda d, x, y: (d(x, y.detach()) * y).sum()),
    "a chain of calls": (lambda net, x, y: net(x) + y, lambda d, x, y: d(d(d(x, y), y), x).sum()),
}


def gradients(body, scalar, recompute):
    denoiser = Denoiser(body)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    total = run(denoiser, lambda: scalar(denoiser, x, y), recompute)
    return total, *torch.autograd.grad(total, (x, y))


@pytest.mark.parametrize(("body", "scalar"), NESTINGS.values(), ids=NESTINGS)
def test_values_and_gradients_are_the_same_bit_for_bit_with_and_without_recomputation(body, scalar):
    for kept, again in zip(gradients(body, scalar, False), gradients(body, scalar, True), strict=True):
        assert kept.abs().max() > 0
        assert torch.equal(kept, again)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_a_driven_module_is_that_of_finite_differences(recompute):
    net = network()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: run(net, lambda: x + net(x), recompute), x)


def test_output_objects_come_back_as_such():
    denoiser = Denoiser(lambda net, x: Prediction(net(x), ({"deep": x * 2},)))
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    out = run(denoiser, lambda: denoiser(x), True)
    assert type(out) is Prediction and torch.equal(out.residuals[0]["deep"], 2 * x)


class Posterior:
    def __init__(self, mean):
        self.mean = mean


def test_an_object_that_hides_tensors_is_refused_when_recomputed_and_counted_when_not():
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    returns = Denoiser(lambda net, x: Posterior(net(x)))
    takes = Denoiser(lambda net, q: net(q.mean))
    with pytest.raises(GradientError, match="denoiser returns Posterior.*recompute=False"):
        run(returns, lambda: returns(x), True)
    with pytest.raises(GradientError, match="denoiser takes Posterior"):
        run(takes, lambda: takes(Posterior(2 * x)), True)
    run(takes, lambda: takes(Posterior(x.detach())), True)  # no gradient can be lost
    meter = Meter()
    torch.autograd.grad(run(returns, lambda: returns(x).mean.sum(), False, meter), x)
    assert meter.nfe == NFE(forward=1, backward=1)


def test_recomputation_happens_under_the_autocast_of_the_call():
    linear = nn.Linear(3, 3).requires_grad_(False)
    x = torch.tensor([[0.1234, 1.2345, 2.3456]])

    def gradient(recompute, *, autocast):
        leaf = x.clone().requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = run(linear, lambda: linear(leaf).float().exp(), recompute)
        return torch.autograd.grad(out.sum(), leaf)[0]

    assert torch.equal(gradient(True, autocast=True), gradient(False, autocast=True))
    assert not torch.equal(gradient(True, autocast=True), gradient(True, autocast=False))


def test_recomputation_does_not_leave_its_autocast_behind():
    net = network()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    out = run(net, lambda: net(x), True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.autograd.grad(out.sum(), x)
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def alive() -> int:
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


def kept_elements(depth: int, calls: int, recompute: bool) -> tuple[int, int]:
    """What `calls` calls of a network of `depth` layers keep for the gradient: elements saved, and Python tensors."""
    net = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(3, 3), nn.Tanh()))).requires_grad_(False)
    own = {part.data_ptr() for part in net.parameters()}  # saved without a copy
    saved = []

    def pack(tensor):
        if tensor.data_ptr() not in own:
            saved.append(tensor.numel())
        return tensor

    x = torch.ones(5, 3, requires_grad=True)

    def chain(y):
        for _ in range(calls):
            y = net(y)
        return y

    before = alive()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(net, lambda: chain(x), recompute)
    elements = sum(saved)
    saved.clear()
    return elements, alive() - before - out.requires_grad  # less the result itself


@pytest.fixture
def no_collection():
    """Garbage of other tests is not to vanish while tensors are counted."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("calls", [1, 4, 16])
def test_recomputed_calls_keep_their_inputs_a_sample_of_their_output_and_nothing_else(calls):
    assert kept_elements(depth=6, calls=calls, recompute=True) == (15 * calls, 2 * calls - 1)
    assert kept_elements(depth=6, calls=calls, recompute=False)[0] >= 6 * 15 * calls


def test_a_second_derivative_through_a_recomputed_call_is_an_error_and_not_a_zero():
    net = network()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    out = run(net, lambda: net(x).square().sum(), True)
    with pytest.raises(GradientError, match="recompute=False"):
        torch.autograd.grad(out, x, create_graph=True)


def test_a_second_derivative_through_kept_activations_is_exact():
    net = network()

    def gradient(x):
        return torch.autograd.grad(run(net, lambda: net(x).square().sum(), False), x, create_graph=True)[0]

    x = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gradient, x)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["class forward", "instance forward"])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_the_modules_own_forward_is_back_afterwards(recompute, own, fails):
    def body(net, x):
        if fails:
            raise KeyError("mine")
        return net(x)

    denoiser = Denoiser(body)
    if own:
        denoiser.forward = lambda x: body(denoiser.net, x)  # as some accelerators do
    before = dict(vars(denoiser))
    try:
        run(denoiser, lambda: denoiser(torch.ones(1, 3, dtype=torch.float64, requires_grad=True)), recompute)
    except KeyError:
        assert fails
    assert dict(vars(denoiser)) == before
    assert ("forward" in vars(denoiser)) is own


@pytest.mark.parametrize("recompute", [False, True])
def test_calls_are_counted_forward_and_once_a_gradient_came_backward_and_recomputed(recompute):
    net, meter = network(), Meter()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    out = run(net, lambda: net(net(net(x))), recompute, meter)
    assert meter.nfe == NFE(forward=3)
    torch.autograd.grad(out.sum(), x)
    assert meter.nfe == NFE(forward=3, backward=3, recomputed=3 * recompute)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_call_whose_result_is_not_used_has_no_backward(recompute):
    net, meter = network(), Meter()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    out = run(net, lambda: (net(x), net(x))[1], recompute, meter)
    torch.autograd.grad(out.sum(), x)
    assert meter.nfe == NFE(forward=2, backward=1, recomputed=int(recompute))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_call_with_several_outputs_counts_one_backward(recompute):
    denoiser, meter = Denoiser(lambda net, x: (net(x), net(2 * x))), Meter()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    one, two = run(denoiser, lambda: denoiser(x), recompute, meter)
    torch.autograd.grad((one * two).sum(), x)
    assert meter.nfe == NFE(forward=1, backward=1, recomputed=int(recompute))


def test_without_a_gradient_to_come_nothing_is_recomputed():
    net, meter = network(), Meter()
    x = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert not run(net, lambda: net(x), True, meter).requires_grad
    assert not run(net, lambda: net(x.detach()), True, meter).requires_grad
    assert meter.nfe == NFE(forward=2)


def test_calls_inside_the_denoiser_are_not_seen_by_the_tape():
    net = network()
    with replay([], []) as tape, drive(net, tape=tape, meter=Meter(), recompute=False):
        net(torch.ones(1, 3, dtype=torch.float64))
        once = tape.seen
        for _ in range(3):
            net[0].weight.cos()
    deep = nn.Sequential(*(nn.Tanh() for _ in range(50)))
    with replay([], []) as tape, drive(deep, tape=tape, meter=Meter(), recompute=False):
        deep(torch.ones(1, 3, dtype=torch.float64))
        assert tape.seen <= once


def test_nfe_add_multiply_and_cost_a_backward_twice_a_forward():
    assert NFE(1, 2, 3) + NFE(5, 10, 15) * 2 == NFE(11, 22, 33)
    assert NFE(forward=5, backward=3, recomputed=2).cost == 5 + 2 * 3 + 2
