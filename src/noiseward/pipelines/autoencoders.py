r"""What autoencoders do while a pipeline runs: change their precision, and draw from their posterior.

Pipelines with an autoencoder that overflows in float16 upcast it to float32 before it decodes and downcast it
afterwards, long before a gradient comes back through it: the weights it was computed with are gone by then. Within
:func:`upcast_copies` a model that is upcast stays as it is and hands the pipeline a copy in float32; downcasting the
copy brings the model back, and the copy lives with the graph as long as that needs it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import Module

from noiseward.noise.tape import aside
from noiseward.terminal import silence

__all__ = ["exclude_posterior", "upcast_copies"]

_HOOKS = ("_hf_hook", "_old_forward", "_diffusers_hook")

Prepare = Callable[[Module], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def upcast_copies(owners: Sequence[Any], name: str, prepare: Prepare, hold: Prepare) -> Iterator[None]:
    """Upcast the module `owner.name` as a copy, which takes its place until it is downcast, in the body of a `with`.

    Arguments:
        owners: a pipeline, and others that share the module.
        name: of their attribute.
        prepare: makes a context that is entered with the module and with each copy.
        hold: makes a context in which the module's weights are here, where they are elsewhere between calls; a copy's
            stay here.
    """
    module: Module = getattr(owners[0], name)

    def install(chosen: Module) -> Module:
        for owner in owners:
            setattr(owner, name, chosen)
        return chosen

    with contextlib.ExitStack() as stack:

        def upcast(*args: Any, **kwargs: Any) -> Module:
            dtype = _requested_dtype(*args, **kwargs)
            if _bits(dtype) <= _bits(_dtype(module)):
                return type(module).to(module, *args, **kwargs)
            with hold(module):
                wide = _copy(module)
            with silence("diffusers", bars=True):  # which warns at each cast, here of each run
                type(wide).to(wide, *args, **kwargs)

            def downcast(*args: Any, **kwargs: Any) -> Module:
                dtype = _requested_dtype(*args, **kwargs)
                if dtype is None or _bits(dtype) >= _bits(_dtype(wide)):
                    return type(wide).to(wide, *args, **kwargs)
                return install(module)

            stack.enter_context(prepare(wide))
            vars(wide)["to"] = downcast
            return install(wide)

        vars(module)["to"] = upcast
        stack.callback(install, module)
        stack.callback(vars(module).pop, "to")
        stack.enter_context(prepare(module))
        yield


def exclude_posterior(encode: Callable[..., Any]) -> Callable[..., Any]:
    """An `encode` whose posterior draws unrecorded: that draw blurs an input image, and is no noise of the sampler."""

    def encode_aside(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        posterior: Any = result[0] if isinstance(result, tuple) else getattr(result, "latent_dist", None)
        draw = getattr(posterior, "sample", None)
        if callable(draw):

            def draw_aside(*args: Any, **kwargs: Any) -> Any:
                with aside():
                    return draw(*args, **kwargs)

            posterior.sample = draw_aside
        return result

    return encode_aside


def _requested_dtype(*args: Any, **kwargs: Any) -> torch.dtype | None:
    """The precision that a call of `Module.to` asks for."""
    values = [*args, kwargs.get("dtype"), kwargs.get("tensor")]
    dtypes = [value.dtype if isinstance(value, torch.Tensor) else value for value in values]
    return next((dtype for dtype in dtypes if isinstance(dtype, torch.dtype)), None)


def _bits(dtype: torch.dtype | None) -> int:
    return torch.finfo(dtype).bits if dtype is not None and dtype.is_floating_point else 0


def _dtype(module: Module) -> torch.dtype | None:
    return next((part.dtype for part in module.parameters() if part.is_floating_point()), None)


def _copy(module: Module) -> Module:
    """A copy of a module, without overridden methods of its parts and without what offloads its weights."""
    overridden = []
    for part in module.modules():
        own = vars(part)
        for name in [name for name in own if name in _HOOKS or callable(getattr(type(part), name, None))]:
            overridden.append((own, name, own.pop(name)))
    try:
        return copy.deepcopy(module)
    finally:
        for own, name, method in overridden:
            own[name] = method
