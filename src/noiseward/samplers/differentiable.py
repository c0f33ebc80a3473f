r"""Lift what keeps other people's samplers from having a gradient.

Samplers are written to be run, not differentiated: most stand under `torch.no_grad()` or `torch.inference_mode()`, as
a decorator or as a `with` in their body, and some detach their state at every step. Each of these sets
:math:`\partial x_{t-1} / \partial x_t` to zero, in whole or in part. Within :func:`differentiable` they do nothing.

Only the calls of foreign code are lifted. torch's own uses (a checkpoint, an optimizer, an initializer) and this
library's keep their meaning, and so does a `torch.no_grad()` around the whole: the gradient mode stays what it was
outside. Other threads are not affected.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["Lift", "differentiable", "lift_again"]

_LIFTED = contextvars.ContextVar[tuple[bool, bool]](
    "whether gradients are lifted here, and detach too", default=(False, False)
)
_OURS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_LOCK = threading.Lock()
_open = 0


@contextlib.contextmanager
def differentiable(*, detach: bool = False) -> Iterator[None]:
    """For the body of a `with`, `torch.no_grad` and `torch.inference_mode` of foreign code do nothing.

    As a decorator it does so for a function: `FunctionSampler(differentiable()(sample))`.

    Arguments:
        detach: lift `Tensor.detach` as well: a detached tensor is then the tensor itself. Only for samplers that use it
            to save memory, not to stop a gradient on purpose.

    Example:
        >>> @torch.no_grad()
        ... def sample(x):
        ...     return 2 * x
        >>> x = torch.ones(1, requires_grad=True)
        >>> with differentiable():
        ...     sample(x).requires_grad
        True
    """
    _install(1)
    lifted = _LIFTED.get()
    token = _LIFTED.set((True, detach or lifted[1]))
    try:
        yield
    finally:
        _LIFTED.reset(token)
        _install(-1)


@contextlib.contextmanager
def lift_again() -> Iterator[None]:
    """For the body of a `with` in the context of an earlier call, what was lifted then is lifted."""
    if not _LIFTED.get()[0]:
        yield
        return
    _install(1)
    try:
        yield
    finally:
        _install(-1)


@final
class Lift:
    """What was lifted when the calls of a run were made, to lift it again when they are recomputed after it.

    Attributes:
        over: whether the run is over.
    """

    def __init__(self) -> None:
        self.over, self._was = False, (False, False)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around a call, and around its recomputation."""
        if not self.over:
            self._was = _LIFTED.get()
        lifted, detach = self._was
        with differentiable(detach=detach) if self.over and lifted else contextlib.nullcontext():
            yield


def _install(change: int) -> None:
    """Install the stand-ins when they are first needed, and remove them when they no longer are."""
    global _open
    with _LOCK:
        before, _open = _open, _open + change
        if (before == 0) != (_open == 0):
            for owner, name, stand_in in _STAND_INS:
                setattr(owner, name, stand_in if _open else _ORIGINAL[owner, name])


def _foreign(frame: FrameType | None) -> bool:
    """Whether the calling code is neither torch's nor ours; for a decorator, the decorated function counts."""
    if frame is None:
        return False
    code = frame.f_code
    if Path(code.co_filename).name == "_contextlib.py":
        code = getattr(frame.f_locals.get("func"), "__code__", code)
    return not code.co_filename.startswith(_OURS)


def _enter_no_grad(self: Any) -> None:
    if _LIFTED.get()[0] and _foreign(sys._getframe(1)):
        self.prev = torch.is_grad_enabled()
        return
    _ORIGINAL[torch.no_grad, "__enter__"](self)


def _enter_inference_mode(self: Any) -> None:
    if _LIFTED.get()[0] and self.mode and _foreign(sys._getframe(1)):
        self._inference_mode_context = contextlib.nullcontext()
        return
    _ORIGINAL[torch.inference_mode, "__enter__"](self)


def _init_set_grad_enabled(self: Any, mode: bool) -> None:
    if _LIFTED.get()[0] and not mode and _foreign(sys._getframe(1)):
        mode = torch.is_grad_enabled()
    _ORIGINAL[torch.set_grad_enabled, "__init__"](self, mode)


@functools.wraps(Tensor.detach)  # modes are shown this one in its place
def _detach(self: Tensor) -> Tensor:
    if _LIFTED.get()[1] and _foreign(sys._getframe(1)):
        return self
    return _ORIGINAL[Tensor, "detach"](self)


_STAND_INS: list[tuple[Any, str, Callable[..., Any]]] = [
    (torch.no_grad, "__enter__", _enter_no_grad),
    (torch.inference_mode, "__enter__", _enter_inference_mode),
    (torch.set_grad_enabled, "__init__", _init_set_grad_enabled),
    (Tensor, "detach", _detach),
]
_ORIGINAL: dict[tuple[Any, str], Any] = {(owner, name): getattr(owner, name) for owner, name, _ in _STAND_INS}
