r"""What a sampler's code does that a noise tape does not answer: cut its graph, or draw other random numbers.

A tape answers Gaussian draws. When a sample then has no gradient, or does not repeat, something else happened, and a
message should name it and where. A :class:`Witness` watches the torch calls that a tape sees; :class:`Everywhere` is a
mode below the tape that also watches where the tape is off, in the denoiser. It costs time, and is entered only once
something is known to be wrong.

* A *cut*: a call of `detach`, `.data`, `numpy`, `item` on a tensor that carries a graph, any call on one under
  `torch.no_grad()`, a denoiser that returns a constant of its input.
* An *event*: a call that advanced a random generator of torch's, whatever its name, or that made a tensor of a numpy
  array. Between two runs on the same draws, the first event with another result is the cause.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from noiseward.samplers.location import asking_location, caller_location, no_grad_switch

__all__ = ["Event", "Everywhere", "GraphCut", "NumpyArray", "Witness", "explain_randomness", "watch_generators"]

_CUTS = {
    torch._C.TensorBase.detach: "Tensor.detach",
    torch.Tensor.detach_: "Tensor.detach_",
    torch.Tensor.data.__get__: "Tensor.data",  # type: ignore[attr-defined]
    torch.Tensor.numpy: "Tensor.numpy",
    torch.Tensor.__array__: "numpy",
    torch.Tensor.item: "Tensor.item",
    torch.Tensor.tolist: "Tensor.tolist",
}
_CONVERSIONS = (torch.tensor, torch.as_tensor, torch.asarray)
_GAUSSIAN = ("randn", "randn_like", "normal", "normal_")
_MOST = 64  # kept of each kind


class GraphCut(NamedTuple):
    """A call, and the line of the sampler's code that made it."""

    what: str
    where: str


class NumpyArray(NamedTuple):
    """A floating-point numpy array that became a tensor, not made of one; `centered`: its mean is zero within error."""

    shape: tuple[int, ...]
    centered: bool
    where: str


class Event(NamedTuple):
    """A call that may return something else each time, and what it returned."""

    what: str
    where: str
    result: Any


class Witness:
    """Watches torch calls, as a tape's `watch`.

    Attributes:
        cuts: where a graph was cut, in order.
        arrays: numpy arrays that became tensors.
        events: what may differ from run to run; only `Everywhere` sees those other than arrays.
        calls: of the denoiser.
    """

    def __init__(self, report: Callable[[int | None], None] | None = None) -> None:
        self.cuts: list[GraphCut] = []
        self.arrays: list[NumpyArray] = []
        self.events: list[Event] = []
        self.calls = 0
        self._report = report
        self._without: GraphCut | None = None  # what turned gradients off
        self._left = False  # whether a tensor became an array: later arrays may be made of it

    def see(self, func: Any, args: Any, kwargs: Any) -> None:
        """Watch a call that is about to be made."""
        self._left = self._left or func is torch.Tensor.numpy or func is torch.Tensor.__array__
        if func in _CONVERSIONS and args and _is_array(args[0]):
            self._array(args[0])
        elif func is torch._C._set_grad_enabled:
            if not args[0] and torch.is_grad_enabled() and (switch := no_grad_switch()) is not None:
                self._without = None if (at := asking_location()) is None else GraphCut(switch, at)
        elif torch.is_inference_mode_enabled():
            if _carries((args, kwargs)):
                self._cut(GraphCut("torch.inference_mode()", caller_location(sys._getframe(1)) or ""))
        elif not torch.is_grad_enabled():
            if self._without is not None and _carries((args, kwargs)):
                self._cut(self._without)
        elif (cut := _CUTS.get(getattr(func, "__wrapped__", func))) is not None:
            if isinstance(args[0], Tensor) and args[0].requires_grad and (at := asking_location()) is not None:
                self._cut(GraphCut(cut, at))

    def around(self, module: torch.nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a denoiser's `forward`: count its calls, and note where they return a constant of their arguments."""

        @functools.wraps(forward)
        def seen(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self._report is not None:
                self._report(self.calls)
            result = forward(*args, **kwargs)
            if torch.is_grad_enabled() and _carries((args, kwargs)):
                given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
                if given and not any(leaf.requires_grad for leaf in given):
                    self._cut(GraphCut("no gradient", f"the denoiser {type(module).__name__}"))
            return result

        return seen

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """For the body of a `with`, watch `torch.from_numpy` as well, which no mode sees; in this thread alone."""
        token = _READING.set(self)
        _install(1)
        try:
            yield
        finally:
            _install(-1)
            _READING.reset(token)

    def _cut(self, seen: GraphCut) -> None:
        if seen not in self.cuts and len(self.cuts) < _MOST:
            self.cuts.append(seen)

    def _array(self, array: Any) -> None:
        if array.dtype.kind != "f" or array.size < 2 or len(self.events) >= _MOST:
            return
        at = caller_location(sys._getframe(1)) or ""
        mean, spread = float(array.mean()), float(array.std())
        if not self._left:
            self.arrays.append(
                NumpyArray(tuple(array.shape), 0 < spread and abs(mean) < 5 * spread / array.size**0.5, at)
            )
        self.events.append(Event("a numpy array", at, (tuple(array.shape), mean, spread)))


_READING = contextvars.ContextVar[Witness | None]("who watches torch.from_numpy", default=None)
_LOCK = threading.Lock()
_open, _own = 0, torch.from_numpy


@functools.wraps(torch.from_numpy)
def _convert(array: Any) -> Tensor:
    if (witness := _READING.get()) is not None:
        witness._array(array)
    return _own(array)


def _install(change: int) -> None:
    """Install the stand-in when it is first needed, and remove it when it no longer is."""
    global _open, _own
    with _LOCK:
        if not _open:
            _own = torch.from_numpy
        _open += change
        torch.from_numpy = _convert if _open else _own


class Everywhere(TorchFunctionMode):
    """A mode that shows a witness all torch calls, those in the denoiser included, and which of them are random."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.witness.see(func, args, kwargs)
        given = (kwargs or {}).get("generator")
        before = _states(given)
        result = func(*args, **(kwargs or {}))
        if len(self.witness.events) < _MOST and not all(map(torch.equal, before, _states(given))):
            name = getattr(func, "__name__", str(func))
            event = Event(_named(func, name), caller_location(sys._getframe(1)) or "", _digest(result))
            self.witness.events.append(event)
        return result


def explain_randomness(first: Witness, second: Witness, advanced: list[str]) -> str | None:
    """Where chance came in between two runs on the same draws, and what to do; None where nothing was seen.

    Arguments:
        first, second: what was seen in the two runs.
        advanced: see `watch_generators`.
    """
    for one, two in zip(first.events, second.events, strict=False):
        if one[:2] != two[:2]:
            break
        if one.result == two.result:
            continue
        if one.what == "a numpy array":
            return f"a numpy array became a tensor at {one.where} and differs; draw noise with torch.randn, not numpy"
        name = one.what.rpartition(".")[2]
        if name in _GAUSSIAN:
            return (
                f"{one.what} at {one.where} draws noise inside the denoiser, where the tape is off; name as denoiser= "
                "a module inside it that draws nothing, or leave denoiser= out"
            )
        if "dropout" in name:
            return f"{one.what} at {one.where} drops at random; call .eval() on the module"
        return (
            f"{one.what} at {one.where}; draw noise with torch.randn, and make other random choices, such as labels, "
            "once and outside the sampler"
        )
    if advanced:
        return f"{' and '.join(advanced)} was used; draw noise with torch.randn"
    return None


@contextlib.contextmanager
def watch_generators() -> Iterator[list[str]]:
    """For the body of a `with`, which global generators other than torch's advanced; filled in at its end."""
    advanced: list[str] = []
    numpy: Any = sys.modules.get("numpy")
    known: list[tuple[str, Callable[[], Any]]] = [("Python's random", random.getstate)]
    if numpy is not None:
        known.append(("numpy.random", lambda: repr(numpy.random.get_state(legacy=False))))
    before = [state() for _, state in known]
    yield advanced
    advanced.extend(name for (name, state), was in zip(known, before, strict=True) if state() != was)


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _carries(values: Any) -> bool:
    """Whether a tensor with a graph is among them."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(values))


def _digest(values: Any) -> Any:
    """Numbers to tell results apart by."""
    found = []
    for one in (leaf.detach() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)):
        flat = one.double().flatten()
        places = torch.arange(1, flat.numel() + 1, device=flat.device).double().sqrt()
        found.append((tuple(one.shape), float(flat.sum()), float((flat * places).sum())))
    return found


def _states(given: Any) -> list[Tensor]:
    """The states of torch's generators and of one that a call was given."""
    used = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    used += [given] if isinstance(given, torch.Generator) else []
    return [generator.get_state() for generator in used]


def _named(func: Any, name: str) -> str:
    module = getattr(func, "__module__", None) or ""
    return f"{module}.{name}" if module.startswith("torch.nn") else f"torch.{name}"
