"""Attributes that are replaced for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.nn import Module

from noiseward.samplers.in_use import occupy

__all__ = ["override"]


@contextlib.contextmanager
def override(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set `owner.name` to a value in the body of a `with`; it may be unset before.

    Example:
        >>> linear = Module()
        >>> with override(linear, "forward", lambda x: 2 * x):
        ...     linear(3)
        6
        >>> "forward" in vars(linear)
        False
    """
    with occupy(owner):
        is_own = name in vars(owner)
        before = getattr(owner, name, None)
        setattr(owner, name, value)
        try:
            yield
        finally:
            if is_own or isinstance(before, Module):
                setattr(owner, name, before)
            else:
                delattr(owner, name)
