"""A model's blocks, each recomputed for the gradient: what `memory="low"` adds around a denoiser and a decoder.

Where a model is cut into blocks its own code knows: it passes them to a function it was given, once
`gradient_checkpointing` is set on the parts that do so (residual blocks and transformer blocks, mostly). That function
is our recomputation here, and the settings are back afterwards. A model that knows no blocks is left as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import Module

from noiseward.pipelines.strips import in_strips
from noiseward.recompute import Meter, recomputed

__all__ = ["blockwise", "blockwise_decoder"]

_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


@contextlib.contextmanager
def blockwise(module: Module, *, strips: bool = False) -> Iterator[None]:
    """For the body of a `with`, the blocks of a model are recomputed one by one.

    Arguments:
        module: the model.
        strips: give the gradient of each block's residual parts in strips, see `strips.py`.
    """
    knows = getattr(module, "_supports_gradient_checkpointing", False)
    parts = [vars(part) for part in module.modules() if _SWITCH in vars(part)] if knows else []
    before = [{name: part[name] for name in (_SWITCH, _FUNCTION) if name in part} for part in parts]
    try:
        for part in parts:
            part.update({_SWITCH: True, _FUNCTION: _striped if strips else _recomputed})
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            del part[_SWITCH], part[_FUNCTION]
            part.update(was)


def blockwise_decoder(vae: Any) -> contextlib.AbstractContextManager[None]:
    """For the body of a `with`, a decoder's blocks are recomputed one by one, and its residual blocks in strips."""
    return blockwise(vae, strips=True)


def _recomputed(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return recomputed(block, Meter(), args, kwargs)


def _striped(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def striped(*args: Any, **kwargs: Any) -> Any:
        with in_strips(block) if isinstance(block, Module) else contextlib.nullcontext():
            return block(*args, **kwargs)

    return recomputed(striped, Meter(), args, kwargs)
