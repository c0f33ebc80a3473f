r"""The paper's two concentration inequalities, under many permutations of the elements at once.

Cut n elements into m blocks :math:`z^1, \dots, z^m \in \mathbb{R}^k`, n = mk, and let

.. math::
    M_1(z) = \Big\| \tfrac1m \sum_i z^i \Big\|_2, \qquad
    M_2(z) = \Big\| \tfrac1m \sum_i z^i {z^i}^\top - I_k \Big\|_2 .

For Gaussian z (Wainwright, 2019)

.. math::
    \Pr[M_1 > M] &\le p_1(M) = \min\{1, 2 e^{-m M^2 / 2k}\}, \\
    \Pr[M_2 > M] &\le p_2(M) = \min\{1, 2 e^{-\frac m2 \max\{\sqrt{1+M} - 1 - \sqrt{k/m},\, 0\}^2}\} .

A permutation of Gaussian noise is Gaussian noise, so both hold for any permutation :math:`\Pi z` of the elements;
structured noise may pass under one and fail under another. :func:`log_bounds` evaluates :math:`\log p_1` and
:math:`\log p_2` for the identity and J more (`permutations.py`).

*Gradient.* With :math:`\bar z` the mean block, u and :math:`\pm M_2` the top eigenvector and eigenvalue of the
deviation, and :math:`e = \sqrt{1+M_2} - 1 - \sqrt{k/m}`, where a bound is below 1

.. math::
    \nabla_{z^i} \log p_1 = -\bar z / k, \qquad
    \nabla_{z^i} \log p_2 = \mp \frac{e}{\sqrt{1 + M_2}} \, u u^\top z^i ,

and zero elsewhere: permutations under which both bounds are 1 are skipped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from noiseward.noise.permutations import Family, Permutations, get_permutations

__all__ = ["log_bounds"]


def log_bounds(flat: Tensor, *, block: int, permutations: int, family: Family = "strided") -> tuple[Tensor, Tensor]:
    """log p1 and log p2 of rows `(B, n)`, for the identity and each permutation: two `(B, 1 + permutations)`.

    Elements that are not finite, or too large to be squared, make both minus infinity.
    """
    return _Bounds.apply(flat, get_permutations(flat.shape[1], permutations, block, family, flat.device))


class _Bounds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, which: Permutations) -> tuple[Tensor, Tensor]:
        count, block = flat.shape[1] // which.block, which.block
        mean, gram = which.moments(flat)
        deviation = gram - torch.eye(block, dtype=gram.dtype, device=gram.device)
        broken = ~(deviation.isfinite().flatten(2).all(2) & mean.isfinite().all(2))
        values, vectors = torch.linalg.eigh(deviation.masked_fill(broken[:, :, None, None], 0))
        top = values.abs().argmax(2, keepdim=True)
        value = values.gather(2, top)[:, :, 0]
        vector = vectors.gather(3, top[..., None].expand(-1, -1, block, 1))[..., 0]
        size1, size2 = mean.norm(dim=2), value.abs()
        excess = ((1 + size2).sqrt() - 1 - math.sqrt(block / count)).clamp(min=0)
        log1 = (math.log(2) - count / (2 * block) * size1.square()).masked_fill(broken, -torch.inf).clamp(max=0)
        log2 = (math.log(2) - count / 2 * excess.square()).masked_fill(broken, -torch.inf).clamp(max=0)
        slope1 = torch.where((log1 < 0)[..., None], -mean / block, 0)
        slope2 = torch.where(log2 < 0, -value.sign() * excess / (1 + size2).sqrt(), 0)
        ctx.which = which
        ctx.save_for_backward(flat, slope1, slope2, vector)
        return log1.to(flat.dtype), log2.to(flat.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad1, grad2 = gradients
        flat, slope1, slope2, vector = ctx.saved_tensors
        constant = (grad1.double()[..., None] * slope1).to(flat.dtype)  # (B, J, k): the same for every block
        scale = (grad2.double() * slope2).to(flat.dtype)  # (B, J): along u, by how much of u is in the block
        return ctx.which.gradient(flat, constant, scale, vector.to(flat.dtype)), None
