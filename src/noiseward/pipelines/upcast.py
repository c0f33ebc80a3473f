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
            dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
            own = _dtype(module)
            if dtype is None or own is None or torch.finfo(dtype).bits <= torch.finfo(own).bits:
                return type(module).to(module, *args, **kwargs)
            wide = _copied(module)
            type(wide).to(wide, *args, **kwargs)

            def narrowed(*args: Any, **kwargs: Any) -> Module:
                dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
                if dtype is None or torch.finfo(dtype).bits >= torch.finfo(_dtype(wide)).bits:
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


def _dtype(module: Module) -> torch.dtype | None:
    return next((part.dtype for part in module.parameters() if part.is_floating_point()), None)


def _copied(module: Module) -> Module:
    """A copy of a module, without what stands in for its methods."""
    methods = {name for name in vars(module) if callable(getattr(type(module), name, None))}
    standing = {name: vars(module).pop(name) for name in methods}
    try:
        return copy.deepcopy(module)
    finally:
        vars(module).update(standing)
