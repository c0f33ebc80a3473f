"""A cache of encoded prompts: prompts do not change while the noise does.

What `encode_prompt` returns depends on its arguments and on the models that read the prompt. Both are the key: which
weights a model has and how often each was edited, and how its adapters are set, so that an encoder with other LoRA
weights, or without those it had, encodes again.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.pipelines.offload import OffloadedWeights
from noiseward.pipelines.truncation import report_truncation
from noiseward.samplers.memory import list_storages

__all__ = ["PromptCache"]

_ADAPTER = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling", "use_dora")  # of a layer with LoRA


class PromptCache:
    """Caches what pipelines' `encode_prompt` returns.

    Arguments:
        exclude: models that read no prompt: the denoisers.
        weights: those that are elsewhere between calls; models that take turns are sent away before a prompt is read.
        size: how many results are kept.
    """

    def __init__(self, exclude: list[Module], *, weights: OffloadedWeights, size: int = 64) -> None:
        self._exclude, self._weights, self._size = exclude, weights, size
        self._results = OrderedDict[Any, Any]()

    def wrap(self, pipe: Any) -> Callable[..., Any]:
        """A pipeline's `encode_prompt`, from the cache where possible; without a graph."""
        encode = pipe.encode_prompt

        @functools.wraps(encode)
        def encode_cached(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
                with torch.no_grad():
                    return encode(*args, **kwargs)  # embeddings: there is nothing to save
            key = (id(pipe), tuple(self._state(pipe)), _key((args, sorted(kwargs.items()))))
            if key not in self._results:
                self._weights.clear()
                with torch.no_grad(), report_truncation():  # the arguments are kept, so that no id is used again
                    self._results[key] = encode(*args, **kwargs), (args, kwargs)
                if len(self._results) > self._size:
                    self._results.popitem(last=False)
            return self._results[key][0]

        return encode_cached

    def _state(self, pipe: Any) -> Iterator[Hashable]:
        """The state of the models that may read the prompt."""
        for name, module in pipe.components.items():
            if isinstance(module, Module) and module not in self._exclude:
                yield name, id(module)
                is_moved = self._weights.holds(module)
                for part in module.modules():
                    own = vars(part)
                    yield from (repr(own[each]) for each in _ADAPTER if each in own)
                    for weight in own["_parameters"].values():
                        if weight is not None and not weight.is_meta:
                            place = (id(weight),) if is_moved else tuple(list_storages(weight))
                            yield place, -1 if weight.is_inference() else weight._version


def _key(value: Any) -> Hashable:
    """A hashable key of an argument: text, numbers and images by value, everything else by identity."""
    from PIL.Image import Image

    if isinstance(value, list | tuple):
        return tuple(_key(part) for part in value)
    if isinstance(value, dict):
        return tuple((key, _key(part)) for key, part in value.items())
    if value is None or isinstance(value, str | int | float | bool | torch.device | torch.dtype):
        return (type(value).__name__, value)
    if isinstance(value, Image):
        return ("image", value.mode, value.size, hashlib.blake2b(value.tobytes()).digest())
    return ("object", id(value))
