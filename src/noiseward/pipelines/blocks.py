"""What `memory="low"` adds around a denoiser and a decoder: their blocks (`samplers/blocks.py`), each recomputed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import Module

from noiseward.pipelines.offload import OffloadedWeights
from noiseward.pipelines.strips import Hold, use_strips
from noiseward.samplers.blocks import find_blocks, intercept, recompute_block
from noiseward.samplers.recompute import replace_forward

__all__ = ["recompute_blocks"]


@contextlib.contextmanager
def recompute_blocks(
    module: Module, *, strips: bool = False, weights: OffloadedWeights | None = None
) -> Iterator[None]:
    """Recompute the blocks of a model one by one in the body of a `with`.

    Arguments:
        module: the model.
        strips: compute the gradient of a block's residual parts in strips, see `strips.py`; for a decoder.
        weights: those that are elsewhere between calls, see `offload.py`.
    """
    with contextlib.ExitStack() as stack:
        for block in find_blocks(module):
            stack.enter_context(intercept(block, functools.partial(_wrap, block, strips, weights)))
        yield


def _wrap(block: Module, strips: bool, weights: OffloadedWeights | None, own: Callable[..., Any]) -> Callable[..., Any]:
    if strips:
        own = _with_strips(block, own, functools.partial(weights.hold, block) if weights else None)
    if weights:
        own = weights.around_block(block, own)
    return recompute_block(block, own)


def _with_strips(block: Module, own: Callable[..., Any], hold: Hold | None) -> Callable[..., Any]:
    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with replace_forward(block, own), use_strips(block, hold=hold):
            return block.forward(*args, **kwargs)

    return forward
