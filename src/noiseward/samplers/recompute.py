r"""The denoiser's calls: counted, taken off the tape, and their activations kept or recomputed.

A sampler calls its denoiser :math:`\epsilon_\theta` once or more per step. Backpropagating through N calls keeps N sets
of activations. With `recompute=True` each call keeps only its inputs and is run again when the gradient comes back:
memory stays that of one call, for one more forward per call. This is one explicit autograd function around
the call. (`torch.utils.checkpoint` in its reentrant form loses the graph of object outputs and closed-over tensors, the
defect behind a published implementation whose gradient never reached its denoiser; in its other form its memory grows
with the number of calls.) Only what goes in and comes out as a tensor, or as a nesting of containers that hold tensors,
has a gradient then; an object that contains tensors otherwise is refused, so that no gradient is lost silently.

What is recomputed must be what was computed. A call's module is restored to the state it had (`state.py`), with the
same context variables and autocast; and of each output up to 4096 values, spread evenly, are kept and compared with
those of the repetition. Where they differ, a gradient would be that of another function: an error names the module. A
call that changes its lists or dicts, as caches do, cannot be repeated from its arguments: its activations are kept
instead.

Part of the gradient can be left out on purpose. Within :func:`hold_constant`, the first calls of each run are
constants: they run once, forward, and nothing is pulled back through them. What the sampler itself does with its draws
keeps its graph, so draws made before still reach the sample that way, without :math:`\partial\epsilon/\partial x`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_flatten, tree_unflatten

from noiseward.errors import GradientError
from noiseward.noise.tape import NoiseTape
from noiseward.samplers.cost import NFE, Meter
from noiseward.samplers.differentiable import lift_again
from noiseward.samplers.in_use import occupy
from noiseward.samplers.state import Snapshot, forget_parts, mark_interceptor, snapshot

__all__ = [
    "Inside",
    "StepCounter",
    "hold_constant",
    "count_output",
    "drive",
    "is_partial",
    "recompute_call",
    "replace_forward",
]

Inside = Callable[[Module], contextlib.AbstractContextManager[None]]

_CONSTANT = contextvars.ContextVar("steps whose denoiser calls are constants", default=0)


def count_output(result: Any, meter: Meter) -> Any:
    """Count one forward call, and one backward once a gradient reaches any tensor of its result, which is returned."""
    meter.count(NFE(forward=1))
    counted = []

    def count_backward(gradient: Tensor) -> None:
        if not counted:
            counted.append(True)
            meter.count(NFE(backward=1))

    for leaf in tree_flatten(result)[0]:
        for tensor in [leaf] if isinstance(leaf, Tensor) else _hidden(leaf):
            if tensor.requires_grad:
                tensor.register_hook(count_backward)
    return result


class StepCounter:
    """The sampler steps of one run: one begins when a denoiser is called that the last one has called already.

    Attributes:
        begun: for each step, how many draws were asked for before it.
    """

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._called: set[Module] = set()

    def enter(self, module: Module, asked: int) -> int:
        """Note that a module is called now, after so many draws; returns the number of the step."""
        if not self.begun or module in self._called:
            self.begun.append(asked)
            self._called.clear()
        self._called.add(module)
        return len(self.begun) - 1


@contextlib.contextmanager
def hold_constant(first: int) -> Iterator[None]:
    """For the body of a `with`, the denoiser calls of the first so many steps of each run are constants.

    Example:
        >>> from noiseward.samplers.cost import count_calls
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> noise = sampler.init(1).requires_grad_()
        >>> with count_calls() as meter, hold_constant(3):
        ...     sampler(noise).sum().backward()
        >>> meter.nfe
        NFE(forward=4, backward=1, recomputed=0)
    """
    token = _CONSTANT.set(first)
    try:
        yield
    finally:
        _CONSTANT.reset(token)


def is_partial() -> bool:
    """Whether, within :func:`hold_constant`, some denoiser calls are constants now."""
    return _CONSTANT.get() > 0


@contextlib.contextmanager
def replace_forward(module: Module, forward: Callable[..., Any]) -> Iterator[None]:
    """For the body of a `with`, calls of the module go to another function."""
    with occupy(module):
        own = vars(module).get("forward")
        module.forward = mark_interceptor(forward)
        try:
            yield
        finally:
            if own is None:
                del module.forward
            else:
                module.forward = own


@contextlib.contextmanager
def drive(
    module: Module,
    *,
    tape: NoiseTape,
    meter: Meter,
    recompute: bool,
    inside: Inside | None = None,
    steps: StepCounter | None = None,
) -> Iterator[None]:
    """For the body of a `with`, run the module's calls off the tape, count them, and recompute them if asked.

    Nothing that draws noise may happen inside the module: it would not be seen.

    Arguments:
        module: the denoiser.
        tape: what it is taken off.
        meter: what counts its calls.
        recompute: whether its activations are recomputed.
        inside: what to enter around each call of it, and around each recomputation.
        steps: what counts the run's sampler steps, shared by its denoisers.
    """
    forward, run = module.forward, steps or StepCounter()

    @functools.wraps(forward)
    def computed(*args: Any, **kwargs: Any) -> Any:
        with inside(module) if inside else contextlib.nullcontext():
            return forward(*args, **kwargs)

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        still = run.enter(module, tape.asked) < _CONSTANT.get()
        args, kwargs = tape.resolve((args, kwargs))
        with tape.off(), torch.set_grad_enabled(torch.is_grad_enabled() and not still):
            if recompute:
                result = recompute_call(computed, meter, args, kwargs, module=module)
            else:
                result = computed(*args, **kwargs)
            return count_output(result, meter)

    forget_parts()
    with replace_forward(module, call):
        yield


def recompute_call(
    function: Callable[..., Any],
    meter: Meter,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    module: Module | None = None,
) -> Any:
    """Call `function(*args, **kwargs)`, keeping only its tensor arguments for the gradient.

    Arguments and result may be any nesting of tuples, lists, dicts and diffusers outputs.

    Arguments:
        function: what is called, and called again when the gradient comes back.
        meter: counts the repeated calls.
        args, kwargs: its arguments.
        module: whose state the function depends on; it is the same for both calls, and named in messages.

    Raises:
        GradientError: an argument or the result hides tensors in an object of another kind. When the gradient comes
            back: the repetition gave another result, or a second derivative was needed.
    """
    leaves, spec = tree_flatten((args, kwargs))
    _check("takes", [leaf for leaf in leaves if any(tensor.requires_grad for tensor in _hidden(leaf))])
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return function(*args, **kwargs)
    arguments = [_HOLE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    returned: dict[str, Any] = {}

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        filled = _fill(arguments, given)
        again, named = tree_unflatten(filled, spec)
        results, returned["spec"] = tree_flatten(function(*again, **named))
        _check("returns", [leaf for leaf in results if _hidden(leaf)])
        returned["leaves"] = [_HOLE if isinstance(leaf, Tensor) else leaf for leaf in results]
        after, kind = tree_flatten((again, named))
        returned["changed"] = kind != spec or any(map(operator.is_not, after, filled))
        return tuple(leaf for leaf in results if isinstance(leaf, Tensor))

    # A module that was compiled in place has this code compiled with it, and then keeps no state.
    state = snapshot(module) if module is not None and not torch.compiler.is_compiling() else None
    call = _Call(run, meter, module, state)
    outputs = _Recompute.apply(call, *tensors)
    if returned["changed"]:
        return function(*args, **kwargs)
    return tree_unflatten(_fill(returned["leaves"], outputs), returned["spec"])


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call that can be repeated."""

    run: Callable[..., tuple[Tensor, ...]]
    meter: Meter
    module: Module | None
    state: Snapshot | None

    def repeat(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs for inputs, of the module as it was."""
        if self.state is None:
            return self.run(*inputs)
        with occupy(self.module, self.state.thread), self.state.restored() as context:
            return context.copy().run(self._run_lifted, *inputs)

    def _run_lifted(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with lift_again():
            return self.run(*inputs)

    def judge(self, differences: Sequence[tuple[Tensor, Tensor, float]]) -> None:
        """Raise `GradientError` unless the outputs of a repetition are those of the call.

        Arguments:
            differences: what `_differences` found.
        """
        for gap, scale, tolerance in differences:
            if gap <= tolerance * scale or not scale.isfinite():
                continue
            name = "the denoiser" if self.module is None else type(self.module).__name__
            raise GradientError(
                f"expected {name} to give the same output when its call is repeated for the gradient, got one that "
                f"differs by {gap / scale:.1%}: something it depends on has changed since, such as its attention "
                "processors, an adapter's scale or a cache; keep its activations with memory='fast' (recompute=False)"
            )


_HOLE = object()


def _hidden(leaf: Any) -> list[Tensor]:
    """The tensors in an object that is no container to the tree, such as a distribution with its mean."""
    if isinstance(leaf, Tensor | Module | type) or not hasattr(leaf, "__dict__"):
        return []
    return [tensor for tensor in tree_flatten(dict(vars(leaf)))[0] if isinstance(tensor, Tensor)]


def _check(verb: str, opaque: list[Any]) -> None:
    if opaque:
        raise GradientError(
            f"the denoiser {verb} {type(opaque[0]).__name__}, and recomputing cannot see the tensors in it: keep the "
            "activations (recompute=False), or name as denoiser the module inside that deals in tensors"
        )


def _fill(leaves: list[Any], tensors: Sequence[Tensor]) -> list[Any]:
    remaining = iter(tensors)
    return [next(remaining) if leaf is _HOLE else leaf for leaf in leaves]


def _autocast(kind: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What enters the current autocast again, on a kind of device."""
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return functools.partial(torch.autocast, device_type=kind, dtype=dtype, enabled=enabled)


def _thinned(output: Tensor, count: int = 4096) -> Tensor:
    """A copy of at most that many values of a tensor, spread evenly."""
    flat = output.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // count))].clone()


def _differences(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, float]]:
    """How far outputs are from the kept ones, how large these are, and what share of that rounding explains."""
    found = []
    for again, first in zip(map(_thinned, outputs), before, strict=True):
        if first.is_floating_point() and first.device.type != "meta":
            wide = first.float()
            tolerance = max(1e-4, 4 * torch.finfo(first.dtype).eps)
            found.append(((again.float() - wide).norm(), wide.norm(), tolerance))
    return found


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.autocast = [_autocast(kind) for kind in {"cpu", tensors[0].device.type}]
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        outputs = call.run(*tensors)
        ctx.thinned = [_thinned(output) for output in outputs]
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError(
                "a second derivative (create_graph=True) was asked of a recomputed call: keep the activations instead, "
                "with recompute=False (memory='fast' for a pipeline)"
            )
        needed = ctx.needs_input_grad[1:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            for autocast in ctx.autocast:
                stack.enter_context(autocast())
            outputs = ctx.call.repeat(inputs)
        ctx.call.meter.count(NFE(recomputed=1))
        # Compared once all is done: to read a number earlier would make a GPU wait within every call.
        judge = functools.partial(ctx.call.judge, _differences(outputs, ctx.thinned))
        torch.autograd.Variable._execution_engine.queue_callback(judge)  # pyright: ignore[reportAttributeAccessIssue]
        pairs = [
            (out, grad) for out, grad in zip(outputs, gradients, strict=True) if grad is not None and out.requires_grad
        ]
        moving = [tensor for tensor in inputs if tensor.requires_grad]
        if not pairs:
            return (None, *(None for _ in inputs))
        found = iter(
            torch.autograd.grad([out for out, _ in pairs], moving, [grad for _, grad in pairs], allow_unused=True)
        )
        return (None, *(next(found) if need else None for need in needed))
