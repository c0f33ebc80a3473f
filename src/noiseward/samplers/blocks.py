"""A model's blocks, each recomputed for the gradient.

A model's own code says where it is cut into blocks: it sets the attribute `gradient_checkpointing` on the parts whose
lists hold them (residual blocks and transformer blocks, mostly). Calls of the lists' members are intercepted and
recomputed one by one. The model's own checkpointing is not used, because some models compute something else there: one
drops its attention mask. A model that names no such parts is left as it is.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from torch.nn import Module, ModuleList

from noiseward.samplers.cost import Meter
from noiseward.samplers.in_use import occupy
from noiseward.samplers.recompute import recompute_call, replace_forward
from noiseward.samplers.state import COMPILED, mark_interceptor

__all__ = ["find_blocks", "intercept", "recompute_block", "recompute_model"]

_SWITCH = "gradient_checkpointing"

_CACHE: MutableMapping[Module, list[weakref.ref[Module]]] = weakref.WeakKeyDictionary()  # blocks may refer to a model


def find_blocks(module: Module) -> list[Module]:
    """The blocks a model is made of: members of lists of its parts that can recompute, the smallest such.

    Example:
        >>> from noiseward.pipelines.load import load_pipeline
        >>> sorted({type(block).__name__ for block in find_blocks(load_pipeline("stickers").unet)})
        ['BasicTransformerBlock', 'ResnetBlock2D']
    """
    if module not in _CACHE:
        can_recompute = any(getattr(module, f"{mark}supports_gradient_checkpointing", False) for mark in ("_", ""))
        parts = [part for part in module.modules() if _SWITCH in vars(part)] if can_recompute else []
        lists = [child for part in parts for child in part.children() if isinstance(child, ModuleList)]
        members = dict.fromkeys(member for each in lists for member in each)
        _CACHE[module] = [weakref.ref(member) for member in members if _is_block(member)]
    return [block for reference in _CACHE[module] if (block := reference()) is not None]


def _is_block(member: Module) -> bool:
    """Whether it has no such part in turn, and more than one layer with weights: one, frozen, keeps nothing at all."""
    parts = list(member.modules())
    layers = [part for part in parts if next(part.parameters(recurse=False), None) is not None]
    return len(layers) > 1 and not any(_SWITCH in vars(part) for part in parts)


def recompute_block(block: Module, own: Callable[..., Any]) -> Callable[..., Any]:
    """A block's `forward`, recomputed for the gradient."""

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return recompute_call(own, Meter(), args, kwargs, module=block)

    return forward


@contextlib.contextmanager
def intercept(block: Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """For the body of a `with`, calls of a block go to what is made of its forward, or of that as it was compiled."""
    compiled = vars(block).get(COMPILED)
    if compiled is None:
        with replace_forward(block, wrap(block.forward)):
            yield
        return
    with occupy(block):
        vars(block)[COMPILED] = mark_interceptor(wrap(compiled))
        try:
            yield
        finally:
            vars(block)[COMPILED] = compiled


@contextlib.contextmanager
def recompute_model(module: Module) -> Iterator[None]:
    """Recompute the blocks of a model one by one in the body of a `with`."""
    with contextlib.ExitStack() as stack:
        for block in find_blocks(module):
            stack.enter_context(intercept(block, functools.partial(recompute_block, block)))
        yield
