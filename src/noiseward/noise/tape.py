r"""The noise tape: any sampler as a differentiable function of its own Gaussian draws.

Every stochastic sampler in the PyTorch world gets its randomness from a handful of calls: `torch.randn`,
`torch.randn_like`, `torch.normal`, `Tensor.normal_` (`torch.nn.init.normal_`). A :class:`NoiseTape` is a
`TorchFunctionMode` around one run of a sampler that answers those calls itself:

* :func:`record` answers with fresh standard normal draws and keeps them;
* :func:`replay` answers with given tensors, so that the sample becomes a function of them.

What is recorded and replayed is :math:`z \sim N(0, I)`; the caller's `mean` and `std` are applied on top,
:math:`\mu + \sigma z`, and in-place targets and `out=` are filled. Draws are cloned on the way out, because callers
scale them in place, and enter under `torch.enable_grad()`, because some callers draw under `no_grad`.

A tensor that is drawn into may be a buffer that the sampler keeps, and fills again in its next run, which may come
before the gradient of this one. So what reads it reads a stand-in of this run's own, which has the graph; the buffer
itself has the numbers, and once it is known to be kept, no graph.

A replay that is asked for fewer, more, or differently shaped draws than it holds raises `DrawMismatch`. What the tape
cannot see at all (numpy, other threads, Box-Muller from `torch.rand`, dropout) is caught by comparing a replay with its
recording: see `samplers/discovery.py`.

Some code draws for a purpose of its own: an encoder's posterior, a mask's noise. Draws made :func:`aside` are recorded
and replayed like all others, and marked as no part of the sampler's noise.

The mode costs a Python call per torch call, so it is :meth:`~NoiseTape.off` around the denoiser, which draws nothing.
That leaves the mode and enters it again; disabling torch functions instead would also disable tensor subclasses such as
quantized weights.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from noiseward.errors import DrawMismatch, TapeError

__all__ = ["NoiseTape", "aside", "count_draws", "off", "record", "is_recording", "replay"]

Source = Callable[[int, tuple[int, ...], torch.dtype], Tensor]
T = TypeVar("T")

_FILLED: MutableMapping[Tensor, object] = WeakIdKeyDictionary()  # by tensors drawn into: the run that did so first


class NoiseTape(TorchFunctionMode):
    """Answers the Gaussian draws of the code it is wrapped around; use :func:`record` or :func:`replay`.

    Arguments:
        source: gives draw number k of a shape and dtype, on any device.

    Attributes:
        asked: how many draws were asked for so far.
        device: where the first draw was asked for; None before.
        seen: how many torch calls went through the mode, each of which costs a few microseconds.
        others: numbers of the draws that were made :func:`aside`.
        watch: called with every call that is not a draw, before it is made; None for no watching.
        from_generator: numbers of the draws asked of a generator.
        records: whether it answers with fresh draws.

    Example:
        >>> with NoiseTape(lambda index, shape, dtype: torch.full(shape, float(index))) as tape:
        ...     x, y = torch.randn(2), torch.randn(2)
        >>> x.tolist(), y.tolist(), tape.asked
        ([0.0, 0.0], [1.0, 1.0], 2)
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.asked = 0
        self.seen = 0
        self.device: torch.device | None = None
        self.others: set[int] = set()
        self.watch: Callable[[Any, Any, Any], None] | None = None
        self.from_generator: set[int] = set()
        self.aside = self.records = False
        self._run = object()
        self._stand_ins: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()  # by what was drawn into
        self._owners: MutableMapping[Tensor, Callable[[], Tensor | None]] = WeakIdKeyDictionary()  # of stand-ins

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        draw = _DRAWS.get(func)
        if draw is None:
            args, kwargs = self.resolve((args, kwargs))
            if self.watch is not None:
                self.watch(func, args, kwargs)
            return func(*args, **(kwargs or {}))
        number = self.asked
        with torch.enable_grad():
            drawn = draw(self, *args, **(kwargs or {}))
            if kwargs and kwargs.get("generator") is not None and self.asked > number:
                self.from_generator.add(number)
            return drawn.requires_grad_() if kwargs and kwargs.get("requires_grad") else drawn

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Leave the mode for the body of a `with`, at no cost per torch call there.

        When another mode lies on top (`with torch.device(...)`), this one stays on: correct, only slower.
        """
        stack = _get_current_function_mode_stack()
        if not stack or stack[-1] is not self:
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def take(self, shape: Sequence[int], dtype: torch.dtype | None, device: Any) -> Tensor:
        """The next draw, standard normal, as a new tensor of the asked shape, dtype and device; none is used up for a
        tensor without elements."""
        dtype = dtype or torch.get_default_dtype()
        device = torch.device(device) if device is not None else torch.get_default_device()
        if 0 in shape:  # no noise
            return torch.empty(shape, dtype=dtype, device=device)
        if dtype.is_complex:
            raise TapeError(f"expected real noise, got {dtype} at draw {self.asked}: only real draws can be replayed")
        self.device = self.device or device
        if self.aside:
            self.others.add(self.asked)
        draw = self.source(self.asked, tuple(map(int, shape)), dtype)
        self.asked += 1
        return draw.clone().to(device=device, dtype=dtype)

    def resolve(self, values: T) -> T:
        """The same values, with a stand-in for each tensor among them that was drawn into."""
        if not self._stand_ins:
            return values
        leaves, spec = tree_flatten(values)
        with self.off():
            found = [self._resolve_one(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return values if all(map(operator.is_, found, leaves)) else tree_unflatten(found, spec)

    def _resolve_one(self, tensor: Tensor) -> Tensor:
        stand_in = self._stand_ins.get(self._find_owner(tensor))
        return tensor if stand_in is None else _find_same(tensor, stand_in)

    def _find_owner(self, tensor: Tensor) -> Tensor:
        """What a tensor, or a view of one, stands in for; itself where it is none, or that is gone."""
        root = _find_root(tensor)
        owner = self._owners[root]() if root in self._owners else None
        return root if owner is None else owner

    def fill(self, target: Tensor, drawn: Tensor) -> Tensor:
        """Write a draw into a tensor, and into its stand-in, which is returned."""
        root = self._find_owner(target)
        target, before = _find_same(target, root), self._stand_ins.get(root, root)
        is_kept = _FILLED.setdefault(root, self._run) is not self._run
        if root.grad_fn is not None and (is_kept or target.shape != drawn.shape):
            root.detach_()
        if target.shape != drawn.shape:
            target.resize_(drawn.shape)
        with torch.set_grad_enabled(not is_kept):
            _write(target, drawn)
        new = torch.empty_strided(root.shape, root.stride(), dtype=root.dtype, device=root.device)
        if target is not root:
            new.copy_(before)
        if before is not root:
            self._owners[before] = lambda: root  # what reads the one before, or a view of it, reads the new one
        self._stand_ins[root], self._owners[new] = new, TensorWeakRef(root)  # neither outlives the caller's use of it
        return _find_same(target, new).copy_(drawn)


def _randn(
    tape: NoiseTape, *size: Any, out: Tensor | None = None, dtype: Any = None, device: Any = None, **rest: Any
) -> Tensor:
    shape: Any = rest["size"] if "size" in rest else size[0] if size and isinstance(size[0], tuple | list) else size
    if out is None:
        return tape.take(shape, dtype, device)
    return tape.fill(out, tape.take(shape, out.dtype, out.device))


def _randn_like(tape: NoiseTape, input: Tensor, *, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
    return tape.take(input.shape, dtype or input.dtype, device or input.device)


def _normal(
    tape: NoiseTape,
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    out: Tensor | None = None,
    dtype: Any = None,
    device: Any = None,
    **rest: Any,
) -> Tensor:
    mean, std = tape.resolve((mean, std))
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if tensors:
        size = torch.broadcast_shapes(*(value.shape for value in tensors))
        dtype, device = tensors[0].dtype, tensors[0].device
    if out is not None:
        dtype, device = out.dtype, out.device
    drawn = (tape.take(size, dtype, device) * std + mean).to(dtype or torch.get_default_dtype())
    return drawn if out is None else tape.fill(out, drawn)


def _normal_(tape: NoiseTape, tensor: Tensor, mean: float = 0.0, std: float = 1.0, **rest: Any) -> Tensor:
    return tape.fill(tensor, tape.take(tensor.shape, tensor.dtype, tensor.device) * std + mean)


def _find_root(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base


def _find_same(tensor: Tensor, base: Tensor) -> Tensor:
    """What a tensor, or a view of one, is of another that is laid out alike."""
    root = _find_root(tensor)
    if tensor is root:
        return base
    return base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - root.storage_offset())


def _write(target: Tensor, drawn: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):  # a view made under no_grad: torch lets no graph enter it
        if not (target.is_leaf and target.requires_grad):  # a parameter being initialized has no use for its old value
            return target.copy_(drawn)
    with torch.no_grad():
        return target.copy_(drawn)


_DRAWS: dict[Any, Callable[..., Tensor]] = {
    torch.randn: _randn,
    torch.randn_like: _randn_like,
    torch.normal: _normal,
    torch.Tensor.normal_: _normal_,
    torch.nn.init.normal_: _normal_,
}


@contextlib.contextmanager
def record(seed: int, into: list[Tensor]) -> Iterator[NoiseTape]:
    """Answer every Gaussian draw in the body with a fresh one, appended to `into`.

    The draws come from one CPU generator in the order and precision they are asked for.

    Example:
        >>> draws = []
        >>> with record(0, into=draws):
        ...     x = torch.randn(2, 3).mul_(10)
        >>> bool((x == 10 * draws[0]).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)

    def fresh(index: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        into.append(torch.randn(shape, generator=generator, dtype=dtype, device="cpu"))
        return into[-1]

    with NoiseTape(fresh) as tape:
        tape.records = True
        yield tape


def _tapes() -> list[NoiseTape]:
    """The tapes that are on, the one on top last."""
    return [mode for mode in _get_current_function_mode_stack() if isinstance(mode, NoiseTape)]


def count_draws() -> int:
    """Count the draws asked for so far, within the run of a sampler under a tape.

    Example:
        >>> with record(0, into=[]):
        ...     x = torch.randn(2) + torch.randn(2)
        ...     count_draws()
        2
    """
    return tapes[-1].asked if (tapes := _tapes()) else 0


def is_recording() -> bool:
    """Whether, within the run of a sampler, the tape on top answers with fresh draws.

    Example:
        >>> with record(0, into=[]):
        ...     is_recording()
        True
    """
    return bool(tapes := _tapes()) and tapes[-1].records


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Within a sampler: leave the tape on top for the body of a `with`, if there is one.

    Example:
        >>> with record(0, into=[]) as tape:
        ...     with off():
        ...         x = torch.randn(2)
        >>> tape.asked
        0
    """
    stack = _get_current_function_mode_stack()
    top = stack[-1] if stack else None
    with top.off() if isinstance(top, NoiseTape) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Within a sampler: the draws made in the body are not noise to optimize, but, say, a VAE's posterior.

    They get the role `other`: replayed, so that the sample repeats, and never changed. Without a tape this does
    nothing.

    Example:
        >>> with record(0, into=[]) as tape:
        ...     x = torch.randn(2)
        ...     with aside():
        ...         image = 1.0 + 0.1 * torch.randn(2)
        >>> tape.others
        {1}
    """
    tapes = _tapes()
    before = [tape.aside for tape in tapes]
    for tape in tapes:
        tape.aside = True
    try:
        yield
    finally:
        for tape, was in zip(tapes, before, strict=True):
            tape.aside = was


@contextlib.contextmanager
def replay(draws: Sequence[Tensor], names: Sequence[str]) -> Iterator[NoiseTape]:
    """Answer the Gaussian draws in the body with given ones, in order; `names` is for messages.

    Raises:
        DrawMismatch: a draw is missing, has another shape, or was not asked for.

    Example:
        >>> z = torch.ones(2, requires_grad=True)
        >>> with replay([z], ["start"]):
        ...     x = torch.normal(5.0, 2.0, (2,))
        >>> x.tolist(), torch.autograd.grad(x.sum(), z)[0].tolist()
        ([7.0, 7.0], [2.0, 2.0])
    """

    def given(index: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if index >= len(draws):
            raise DrawMismatch(
                f"the sampler asks for a draw number {index + 1} of shape {shape}, the recording has {len(draws)}: "
                "the number of draws must not depend on their values"
            )
        if shape != tuple(draws[index].shape):
            raise DrawMismatch(
                f"the sampler asks for '{names[index]}' with shape {shape}, the recording has "
                f"{tuple(draws[index].shape)}: draws must come in the same order and shapes on every run"
            )
        return draws[index]

    with NoiseTape(given) as tape:
        yield tape
    if tape.asked < len(draws):
        raise DrawMismatch(
            f"the sampler asked for {tape.asked} draws, the recording has {len(draws)}: '{names[tape.asked]}' and "
            "later were not drawn; the number of draws must not depend on their values"
        )
