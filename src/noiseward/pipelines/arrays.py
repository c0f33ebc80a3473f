"""Pipelines that return numpy arrays: their samples are kept as tensors.

Some older pipelines know no `output_type="pt"`: they convert what they have decoded to a numpy array, in their call or
in `decode_latents`, and a gradient ends there. Where that is written in their code, `Tensor.numpy` gives a sample as it
is for the time of a call. What is no sample, such as timesteps, becomes an array as before.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["is_array_maker", "keep_tensors", "lead_with_channels"]

_CHANNELS = (1, 3, 4)


def is_array_maker(pipe: Any) -> bool:
    """Whether a pipeline's call, or a method it decodes by, always converts to numpy."""
    call = _find_code(pipe, "__call__")
    if call is None or any(each in ("pt", "np") for each in _list_constants(call.co_consts)):
        return False
    decode = _find_code(pipe, "decode_latents") if "decode_latents" in call.co_names else None
    return any("numpy" in code.co_names for code in (call, decode) if code is not None)


@contextlib.contextmanager
def keep_tensors() -> Iterator[None]:
    """In the body of a `with`, `Tensor.numpy` gives images and sound as they are.

    Example:
        >>> import torch
        >>> with keep_tensors():
        ...     type(torch.zeros(1, 8, 8, 3).numpy()).__name__, type(torch.zeros(5).numpy()).__name__
        ('Tensor', 'ndarray')
    """
    with _KeepTensors():
        yield


def lead_with_channels(images: Tensor) -> Tensor:
    """Images `(B, H, W, C)` as `(B, C, H, W)`; anything else as it is."""
    return images.movedim(-1, 1) if _is_image(images) else images


def _find_code(pipe: Any, method: str) -> CodeType | None:
    found = getattr(type(pipe), method, None)
    return None if found is None else getattr(inspect.unwrap(found), "__code__", None)


def _list_constants(constants: Iterable[Any]) -> Iterator[Any]:
    for each in constants:
        yield from _list_constants(each) if isinstance(each, tuple | frozenset) else [each]


class _KeepTensors(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.numpy and _is_sample(args[0]):
            return args[0]
        return func(*args, **(kwargs or {}))


def _is_sample(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and (_is_image(tensor) or tensor.ndim == 3)


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[-1] in _CHANNELS and tensor.shape[1] not in _CHANNELS
