r"""The paper's two concentration inequalities, under many orders of the elements at once.

Cut n elements into m blocks :math:`z^1, \dots, z^m \in \mathbb{R}^k`, n = mk, and let

.. math::
    M_1(z) = \Big\| \tfrac1m \sum_i z^i \Big\|_2, \qquad
    M_2(z) = \Big\| \tfrac1m \sum_i z^i {z^i}^\top - I_k \Big\|_2 .

For Gaussian z (Wainwright, 2019)

.. math::
    \Pr[M_1 > M] &\le p_1(M) = \min\{1, 2 e^{-m M^2 / 2k}\}, \\
    \Pr[M_2 > M] &\le p_2(M) = \min\{1, 2 e^{-\frac m2 \max\{\sqrt{1+M} - 1 - \sqrt{k/m},\, 0\}^2}\} .

A permutation of Gaussian noise is Gaussian noise, so both hold in any order :math:`\Pi z` of the elements; structured
noise may pass in one order and fail in another. :func:`bounds` evaluates :math:`\log p_1` and :math:`\log p_2` in the
order given and in J more.

*Which orders.* A random permutation costs a random access per element, 100 of them all the time there is. Two families:

* `random`: J stored random permutations, as published;
* `strided`: a few stored random permutations, each read J/4 times with another stride s and shift t, so that a block is
  its elements t, t + s, ..., t + (k-1)s. Reading with a stride is a view; only the stored ones are gathered. Each is a
  random permutation like any other, and the tails hold for it.

*Gradient.* With :math:`\bar z` the mean block, u and :math:`\pm M_2` the top eigenvector and eigenvalue of the
deviation, and :math:`e = \sqrt{1+M_2} - 1 - \sqrt{k/m}`, where a bound is below 1

.. math::
    \nabla_{z^i} \log p_1 = -\bar z / k, \qquad
    \nabla_{z^i} \log p_2 = \mp \frac{e}{\sqrt{1 + M_2}} \, u u^\top z^i ,

and zero elsewhere: orders in which both bounds are 1 are skipped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from noiseward.errors import ArgumentError

__all__ = ["Family", "Orders", "bounds", "orders"]

Family = Literal["strided", "random"]
STORED = 4  # permutations kept by the strided family
AT_ONCE = 2**22  # elements of all orders of all rows together, below which they are gathered at once
LENGTH = 4096  # elements summed in single precision before double precision takes over


class Order(NamedTuple):
    """One order of the elements: a stored permutation, read with a stride from a shift on, wrapping around."""

    base: int
    stride: int
    shift: int


@dataclasses.dataclass(frozen=True)
class Orders:
    """The order given, and some permutations of it.

    Arguments:
        bases: stored permutations `(r, n)`; the first is the identity.
        orders: how each is read; the first is the order given.
        block: k.
    """

    bases: Tensor
    orders: tuple[Order, ...]
    block: int

    def __len__(self) -> int:
        return len(self.orders)

    def __iter__(self) -> Iterator[Tensor]:
        """Every order as indices `(n,)`: block i is the elements at the indices k i ... k i + k - 1."""
        for order in self.orders:
            read = self.read(torch.cat([self.bases[order.base]] * 2)[None], order)
            yield read.transpose(2, 3).flatten()

    @functools.cached_property
    def index(self) -> Tensor:
        """Every order as indices, `(J, n)`."""
        return torch.stack(list(self))

    def read(self, doubled: Tensor, order: Order) -> Tensor:
        """A view `(B, c, k, s)` of elements in a base's order, twice in a row `(B, 2n)`: blocks lie along k."""
        size = doubled.shape[1] // 2
        return doubled[:, order.shift : order.shift + size].view(len(doubled), -1, self.block, order.stride)


@functools.lru_cache(maxsize=4)
def orders(size: int, permutations: int, block: int, family: Family, device: torch.device) -> Orders:
    """The identity and `permutations` more orders of `size` elements; always the same ones.

    Raises:
        ArgumentError: the blocks do not divide the elements.
    """
    if block < 1 or size % block:
        allowed = [k for k in (1, 2, 3, 4, 5, 6, 8, 16, 32) if size % k == 0]
        raise ArgumentError(
            f"blocks of {block} given: they must divide the {size} live elements of a row, as {allowed} do"
        )
    generator = torch.Generator().manual_seed(0)
    stored = permutations if family == "random" else min(STORED, permutations)
    bases = [torch.arange(size), *(torch.randperm(size, generator=generator) for _ in range(stored))]
    reads = [Order(0, 1, 0)]
    if family == "random":
        reads += [Order(base, 1, 0) for base in range(1, stored + 1)]
    else:
        strides = [s for s in range(1, size // block + 1) if size % (block * s) == 0]
        strides = [s for s in strides if s >= 32] or strides  # short strides are slow to read
        for j in range(permutations):
            which, shift = (int(torch.randint(high, (1,), generator=generator)) for high in (len(strides), size))
            reads.append(Order(1 + j % stored, strides[which], shift))
    return Orders(torch.stack(bases).to(device), tuple(reads), block)


def bounds(flat: Tensor, *, block: int, permutations: int, family: Family = "strided") -> tuple[Tensor, Tensor]:
    """log p1 and log p2 of rows `(B, n)`, in the order given and in each other: two `(B, 1 + permutations)`.

    Elements that are not finite, or too large to be squared, make both minus infinity.
    """
    return _Bounds.apply(flat, orders(flat.shape[1], permutations, block, family, flat.device))


class _Bounds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, which: Orders) -> tuple[Tensor, Tensor]:
        count, block = flat.shape[1] // which.block, which.block
        if flat.numel() * len(which) <= AT_ONCE:
            blocks = flat[:, which.index].unflatten(2, (count, block)).double()
            mean, gram = blocks.mean(2), blocks.transpose(2, 3) @ blocks / count
        else:
            means, grams = [], []
            for order, doubled in _gathered(flat, which):
                blocks = which.read(doubled, order)
                means.append(blocks.mean(3).double().mean(1))
                grams.append(_gram(blocks))
            mean, gram = torch.stack(means, 1), torch.stack(grams, 1) / count
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
        which: Orders = ctx.which
        shifted = (grad1.double()[..., None] * slope1).to(flat.dtype)  # (B, J, k): the same for every block
        scaled = (grad2.double() * slope2).to(flat.dtype)  # (B, J): along u, by how much of u is in the block
        active = ((shifted != 0).any(2) | (scaled != 0)).any(0)
        total, vector = torch.zeros_like(flat), vector.to(flat.dtype)
        if flat.numel() * len(which) <= AT_ONCE:
            index = which.index[active]
            blocks = flat[:, index].unflatten(2, (-1, which.block))
            vector, scaled, shifted = vector[:, active], scaled[:, active], shifted[:, active]
            along = torch.einsum("bjk,bjmk->bjm", vector, blocks) * scaled[..., None]
            gradient = along[..., None] * vector[:, :, None] + shifted[:, :, None]
            return total.index_add_(1, index.flatten(), gradient.flatten(1)), None
        active = active.tolist()
        size = flat.shape[1]
        for base in range(len(which.bases)):
            mine = [j for j, order in enumerate(which.orders) if order.base == base and active[j]]
            if not mine:
                continue
            doubled = _doubled(flat, which.bases[base], base)
            gradient = torch.zeros_like(doubled)
            for j in mine:
                part = which.read(gradient, which.orders[j])
                if scaled[:, j].any():
                    blocks = which.read(doubled, which.orders[j])
                    along = torch.einsum("bk,bcks->bcs", vector[:, j] * scaled[:, j, None], blocks)
                    part.addcmul_(vector[:, j, None, :, None], along[:, :, None])
                part += shifted[:, j, None, :, None]
            folded = gradient[:, :size] + gradient[:, size:]
            total.add_(folded) if base == 0 else total.index_add_(1, which.bases[base], folded)
        return total, None


def _gathered(flat: Tensor, which: Orders) -> Iterator[tuple[Order, Tensor]]:
    """Each order with the elements in its base's order, twice in a row; one gather per base."""
    known: dict[int, Tensor] = {}
    for order in which.orders:
        if order.base not in known:
            if len(which.bases) > STORED + 1:
                known.clear()  # every base is read once: do not keep them all
            known[order.base] = _doubled(flat, which.bases[order.base], order.base)
        yield order, known[order.base]


def _doubled(flat: Tensor, base: Tensor, number: int) -> Tensor:
    ordered = flat if number == 0 else flat.index_select(1, base)
    return torch.cat([ordered, ordered], 1)


def _gram(blocks: Tensor) -> Tensor:
    """The sum over blocks of their outer products, `(B, k, k)` in double precision, of a view `(B, c, k, s)`."""
    rows, count, block, stride = blocks.shape
    if stride == 1:
        whole = count // LENGTH * LENGTH
        columns = blocks[..., 0]
        body = columns[:, :whole].reshape(rows, -1, LENGTH, block)
        rest = columns[:, whole:].double()
        return (body.transpose(2, 3) @ body).double().sum(1) + rest.transpose(1, 2) @ rest
    return (blocks @ blocks.transpose(2, 3)).double().sum(1)
