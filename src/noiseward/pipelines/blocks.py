"""A model's blocks, each recomputed for the gradient: what `memory="low"` adds around a denoiser and a decoder.

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

from noiseward.pipelines.strips import in_strips
from noiseward.samplers.cost import Meter
from noiseward.samplers.recompute import recompute_call, replace_forward

__all__ = ["blocks", "blockwise", "blockwise_decoder"]

_SWITCH = "gradient_checkpointing"

_KNOWN: MutableMapping[Module, list[Module]] = weakref.WeakKeyDictionary()


def blocks(module: Module) -> list[Module]:
    """The blocks a model is made of: members of lists of its parts that can recompute, the smallest such.

    Example:
        >>> from noiseward import stickers
        >>> from noiseward.pipelines import load
        >>> sorted({type(block).__name__ for block in blocks(load(stickers.path()).unet)})
        ['BasicTransformerBlock', 'ResnetBlock2D']
    """
    if module not in _KNOWN:
        knows = getattr(module, "_supports_gradient_checkpointing", False)
        parts = [part for part in module.modules() if _SWITCH in vars(part)] if knows else []
        lists = [child for part in parts for child in part.children() if isinstance(child, ModuleList)]
        members = dict.fromkeys(member for each in lists for member in each)
        _KNOWN[module] = [member for member in members if _is_block(member)]
    return _KNOWN[module]


def _is_block(member: Module) -> bool:
    """Whether it has no such part in turn, and more than one layer with weights: one, frozen, keeps nothing at all."""
    parts = list(member.modules())
    layers = [part for part in parts if next(part.parameters(recurse=False), None) is not None]
    return len(layers) > 1 and not any(_SWITCH in vars(part) for part in parts)


@contextlib.contextmanager
def blockwise(module: Module, *, strips: bool = False) -> Iterator[None]:
    """For the body of a `with`, the blocks of a model are recomputed one by one.

    Arguments:
        module: the model.
        strips: give the gradient of each block's residual parts in strips, see `strips.py`.
    """
    with contextlib.ExitStack() as stack:
        for block in blocks(module):
            own = block.forward
            stack.enter_context(replace_forward(block, _recomputing(block, _striped(block, own) if strips else own)))
        yield


def blockwise_decoder(vae: Any) -> contextlib.AbstractContextManager[None]:
    """For the body of a `with`, a decoder's blocks are recomputed one by one, and its residual blocks in strips."""
    return blockwise(vae, strips=True)


def _recomputing(block: Module, own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return recompute_call(own, Meter(), args, kwargs, module=block)

    return forward


def _striped(block: Module, own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with replace_forward(block, own), in_strips(block):
            return block.forward(*args, **kwargs)

    return forward
