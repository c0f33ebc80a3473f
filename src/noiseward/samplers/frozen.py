"""Weights without a gradient, for as long as a sampler lives.

What is optimized is the noise, so a denoiser's weights need no gradient, and keeping one costs memory. But the weights
are the user's: they are restored when the last of those who froze them is gone.

Some models recompute activations by a function of their own that asks for the gradient of their weights, whether it is
needed or not (guided-diffusion's `CheckpointFunction`, and those copied from it). Such weights are frozen *within
calls* alone: a graph then leads to the noise and to nothing else, and when the gradient comes back they are as they
were.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import final

from torch.nn import Module, Parameter
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Frozen"]

_HOLDERS = WeakTensorKeyDictionary()  # of each weight that was frozen here, how many still need it so


@final
class Frozen:
    """The weights of some modules, frozen until this is gone or released.

    Attributes:
        within: whether they are frozen within calls alone.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> held = Frozen([net])
        >>> net.weight.requires_grad
        False
        >>> held.release()
        >>> net.weight.requires_grad
        True
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        weights = [weight for module in modules for weight in module.parameters()]
        self._weights = [weight for weight in weights if weight.requires_grad or weight in _HOLDERS]
        self.within = False
        self._finalize: weakref.finalize[..., Frozen] | None = None
        self.hold()

    def hold(self) -> None:
        """Freeze them, if they were released."""
        if self.within or self._held():
            return
        for weight in self._weights:
            _HOLDERS[weight] = (_HOLDERS.get(weight) or 0) + 1
            weight.requires_grad_(False)
        self._finalize = weakref.finalize(self, _let_go, self._weights)
        self._finalize.atexit = False

    def release(self) -> None:
        """Restore the weights."""
        if self._finalize is not None:
            self._finalize()

    def narrow(self) -> bool:
        """Freeze them within calls alone from now on; whether that is another way than before."""
        if self.within or not self._weights:
            return False
        self.release()
        self.within = True
        return True

    def widen(self) -> None:
        """Freeze them all the time again."""
        self.within = False
        self.hold()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around a call of a module."""
        weights = [weight for weight in self._weights if weight.requires_grad] if self.within else []
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    def _held(self) -> bool:
        return self._finalize is not None and self._finalize.alive


def _let_go(weights: list[Parameter]) -> None:
    for weight in weights:
        left = _HOLDERS.pop(weight, 0) - 1
        if left > 0:
            _HOLDERS[weight] = left
        elif left == 0:
            weight.requires_grad_(True)
