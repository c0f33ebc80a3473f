"""How much a gradient holds at its peak, counted in the tensors that autograd saves: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Module

__all__ = ["peak"]


class _Kept:
    """A tensor that autograd keeps; it is counted from when it is saved until it is let go."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor, self.ledger, self.storage = tensor, ledger, tensor.untyped_storage()
        ledger.add(self.storage, 1)

    def __del__(self) -> None:
        self.ledger.add(self.storage, -1)


class _Ledger:
    def __init__(self, own: set[int]) -> None:
        self.own, self.users, self.now, self.peak = own, dict[int, int](), 0, 0

    def add(self, storage: torch.UntypedStorage, change: int) -> None:
        key = storage.data_ptr()
        if key in self.own:
            return
        before = self.users.get(key, 0)
        self.users[key] = before + change
        self.now += storage.nbytes() * ((before + change > 0) - (before > 0))
        self.peak = max(self.peak, self.now)


def peak(compute: Callable[[], object], modules: Iterable[Module] = ()) -> int:
    """The most bytes that autograd keeps at any instant of a computation and its gradient, weights aside."""
    ledger = _Ledger({weight.untyped_storage().data_ptr() for module in modules for weight in module.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, ledger), lambda held: held.tensor):
        compute()
    return ledger.peak
