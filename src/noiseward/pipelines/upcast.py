r"""Models that change their precision while a pipeline runs, with the graph of what they computed kept whole.

Pipelines with an autoencoder that overflows in float16 widen it to float32 before it decodes and narrow it again
afterwards, long before a gradient comes back through it: the weights it was computed with are gone by then. Within
:func:`apart` a model that is widened leaves itself as it is and hands the pipeline a wide copy; narrowing the copy
brings the model back, and the copy stays with the graph as long as that needs it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import Module

__all__ = ["apart"]

Prepare = Callable[[Module], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def apart(owners: Sequence[Any], name: str, prepare: Prepare) -> Iterator[None]:
    """For the body of a `with`, the module `owner.name` is widened as a copy, which takes its place until narrowed.

    Arguments:
        owners: a pipeline, and others that share the module.
        name: what they call it.
        prepare: what is entered with the module and with each copy.
    """
    module: Module = getattr(owners[0], name)

    def install(chosen: Module) -> Module:
        for owner in owners:
            setattr(owner, name, chosen)
        return chosen

    with contextlib.ExitStack() as stack:

        def widened(*args: Any, **kwargs: Any) -> Module:
            dtype = _asked(*args, **kwargs)
            if _bits(dtype) <= _bits(_dtype(module)):
                return type(module).to(module, *args, **kwargs)
            wide = _copied(module)
            type(wide).to(wide, *args, **kwargs)

            def narrowed(*args: Any, **kwargs: Any) -> Module:
                dtype = _asked(*args, **kwargs)
                if dtype is None or _bits(dtype) >= _bits(_dtype(wide)):
                    return type(wide).to(wide, *args, **kwargs)
                return install(module)

            stack.enter_context(prepare(wide))
            vars(wide)["to"] = narrowed
            return install(wide)

        vars(module)["to"] = widened
        stack.callback(install, module)
        stack.callback(vars(module).pop, "to")
        stack.enter_context(prepare(module))
        yield


def _asked(*args: Any, **kwargs: Any) -> torch.dtype | None:
    """The precision that a call of `Module.to` asks for."""
    given = [*args, kwargs.get("dtype"), kwargs.get("tensor")]
    kinds = [each.dtype if isinstance(each, torch.Tensor) else each for each in given]
    return next((each for each in kinds if isinstance(each, torch.dtype)), None)


def _bits(dtype: torch.dtype | None) -> int:
    return torch.finfo(dtype).bits if dtype is not None and dtype.is_floating_point else 0


def _dtype(module: Module) -> torch.dtype | None:
    return next((part.dtype for part in module.parameters() if part.is_floating_point()), None)


def _copied(module: Module) -> Module:
    """A copy of a module, without what stands in for methods of its parts."""
    standing = []
    for part in module.modules():
        own = vars(part)
        for name in [name for name in own if callable(getattr(type(part), name, None))]:
            standing.append((own, name, own.pop(name)))
    try:
        return copy.deepcopy(module)
    finally:
        for own, name, method in standing:
            own[name] = method
