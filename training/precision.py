"""Half of the work: a forward and a backward pass in bfloat16, weights and optimizers in float32.

Matrix products and convolutions take bfloat16 and add up in float32, about twice as fast as float32 on a processor
that has the instructions (`avx512_bf16`). Attention stays in float32: its backward pass in bfloat16 is ten times
slower than in float32 on a CPU (torch 2.13), which costs more than all the rest gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

_attention = F.scaled_dot_product_attention


def _in_float32(query: Tensor, key: Tensor, value: Tensor, *rest: object, **options: object) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return _attention(query.float(), key.float(), value.float(), *rest, **options).to(query.dtype)


@contextmanager
def half(enabled: bool = True) -> Iterator[None]:
    """Run what is inside in bfloat16 where that is faster."""
    if not enabled:
        yield
        return
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        mock.patch.object(F, "scaled_dot_product_attention", _in_float32),
    ):
        yield
