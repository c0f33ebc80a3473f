r"""Gradients through half precision: scaled by a power of two on the way, in each row.

float16 holds numbers from 6e-8 to 65504. The gradient of a mean over the pixels of an image is about 1e-6 per pixel and
smaller inside the network: nearly all of it becomes exactly zero. (bfloat16 has the range of float32, and no such
problem.) So the cotangent pulled back through a sampler M is scaled, and the result unscaled in float32:

.. math:: \nabla_z r = \frac1s J_M^\top \big( s \, \nabla_x r \big), \qquad
          s = 2^k, \quad \lVert s \, \nabla_x r \rVert \approx 2^{10},

with a scale s of each row's own. Where the result is not finite, s was too large: that row's is lowered, and the
gradient pulled back once more. Powers of two change no digit of what neither overflows nor underflows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from noiseward.errors import NoisewardWarning
from noiseward.noise.layout import Layout

__all__ = ["is_half", "pull_back", "pull_scores"]

TARGET = 10  # exponent of the norm that a row's gradient is scaled to before it is pulled back
HIGHEST = 16  # exponent of the first scale where that norm is not known
LOWER, TIMES = 6, 4  # by how many powers of two a scale is lowered after an overflow, and how many scales are tried
LOST = 0.5  # share of zeros in the gradient of a draw from which it is called lost


def is_half(*tensors: Tensor) -> bool:
    """Whether one of some tensors is in float16."""
    return any(tensor.dtype == torch.float16 for tensor in tensors)


def pull_back(
    sample: Tensor, variable: Tensor, cotangent: Tensor, *, half: bool = False, layout: Layout | None = None
) -> Tensor | None:
    r""":math:`J^\top v`, row by row, or None where no graph leads from the sample to the variable.

    Arguments:
        sample: `(B, *X)`, a function of the variable.
        variable: `(B, *Z)`.
        cotangent: v, `(B, *X)`, in at least the sample's precision.
        half: whether float16 is on the way: v is then scaled.
        layout: of the variable, if that is noise: a draw whose gradient is mostly zero is then warned of.

    Example:
        >>> z = torch.ones(1, 2, requires_grad=True)
        >>> v = torch.full((1, 2), 1e-8)
        >>> for half in (False, True):
        ...     x = (z.half() * 1e-2).float()
        ...     bool(pull_back(x, z, v, half=half).any())
        False
        True
    """
    if not half:
        return torch.autograd.grad(sample, variable, cotangent.to(sample.dtype), allow_unused=True)[0]
    wide = cotangent.float()
    norms = wide.flatten(1).norm(dim=1)
    exponents = torch.where(norms > 0, TARGET - norms.clamp(min=2.0**-126).log2().round(), torch.zeros_like(norms))

    def scaled(scale: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
        given = (wide * _rows(scale, wide)).to(sample.dtype)
        return torch.autograd.grad(sample, variable, given, allow_unused=True, retain_graph=keep)

    (found,) = _unscaled(scaled, exponents)
    if found is not None and layout is not None:
        _warn_of_zeros(layout.split(found[(norms > 0) & found.isfinite().flatten(1).all(1)]))
    return found


def pull_scores(scores: Tensor, variables: Sequence[Tensor], *, half: bool = False) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of scores `(B,)` to some variables; their graph is kept."""
    if not half:
        return torch.autograd.grad(scores.sum(), list(variables), retain_graph=True, allow_unused=True)

    def scaled(scale: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
        total = (scores.float() * scale).sum()
        return torch.autograd.grad(total, list(variables), retain_graph=True, allow_unused=True)

    return _unscaled(scaled, torch.full_like(scores, HIGHEST, dtype=torch.float32))


def _unscaled(
    scaled: Callable[[Tensor, bool], tuple[Tensor | None, ...]], exponents: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of rows that are scaled by powers of two, which are lowered where a result is not finite."""
    found: tuple[Tensor | None, ...] = ()
    for turn in range(TIMES):
        found = scaled(torch.exp2(exponents), turn < TIMES - 1)
        finite = [part.isfinite().flatten(1).all(1) for part in found if part is not None]
        fine = torch.stack([part.to(exponents.device) for part in finite]).all(0) if finite else None
        if fine is None or bool(fine.all()) or turn == TIMES - 1:
            break
        exponents = torch.where(fine, exponents, exponents - LOWER)
    scale = torch.exp2(exponents)
    wide = [part if part is None else part.to(torch.promote_types(part.dtype, torch.float32)) for part in found]
    return tuple(part if part is None else part / _rows(scale, part) for part in wide)


def _warn_of_zeros(draws: Sequence[Tensor]) -> None:
    """Warn where the gradient of a draw became mostly zero; where that of all draws did, too."""
    shares = torch.stack([(part == 0).float().mean() for part in draws if part.numel()] or [torch.zeros(())])
    lost = shares.max() if bool((shares == 1).all()) else shares[shares < 1].max()
    if lost > LOST:
        warnings.warn(
            f"{lost:.0%} of a gradient became zero in float16: use bfloat16 or float32 weights (dtype=)",
            NoisewardWarning,
            stacklevel=4,
        )


def _rows(numbers: Tensor, like: Tensor) -> Tensor:
    """One number per row, to multiply a tensor with."""
    return numbers.to(like.device).view(-1, *(1,) * (like.ndim - 1))
