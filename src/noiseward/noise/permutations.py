r"""Permutations of the elements of some noise: the identity, and J random ones, always the same.

Cut into blocks of k after each permutation, noise is described by the mean block and the second moment of the blocks,

.. math:: \bar z = \frac1m \sum_i z^i, \qquad G = \frac1m \sum_i z^i {z^i}^\top,

and the gradient of a function of those two is :math:`\nabla_{z^i} = c + s \, u u^\top z^i` (`concentration.py`).
:class:`Permutations` computes the moments for all of them, and sums such gradients.

To permute is to read memory in random order, and that takes nearly all of the time. So there are two families:

* `random`: J stored random permutations, as published;
* `strided`: four stored random permutations, each read J/4 times with another stride s and shift t, so that a block is
  its elements t, t + s, ..., t + (k-1)s. Reading with a stride is a view; only the stored ones are gathered. Each is a
  random permutation like any other, and what holds for Gaussian noise after every permutation holds for it.

Small noise is gathered for all permutations at once, whichever the family.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError

__all__ = ["Family", "Permutations", "check_blocks", "get_permutations"]

Family = Literal["strided", "random"]
STORED = 4  # permutations kept by the strided family
AT_ONCE = 2**19  # elements of all permutations of a row, up to which gathering them at once is faster, and small
PASS = 2**19  # elements gathered at once, for as many rows as that allows
LENGTH = 4096  # elements summed in single precision before double precision takes over


class Permutations(abc.ABC):
    """The identity and J permutations, with blocks of `block` elements."""

    block: int

    @abc.abstractmethod
    def index(self) -> Tensor:
        """All as indices `(1 + J, n)`: block i is the elements at the indices k i ... k i + k - 1."""

    @abc.abstractmethod
    def moments(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean block `(B, 1 + J, k)` and second moment `(B, 1 + J, k, k)` of rows `(B, n)`, in double precision."""

    @abc.abstractmethod
    def gradient(self, flat: Tensor, constant: Tensor, scale: Tensor, vector: Tensor) -> Tensor:
        """The sum over permutations of what each adds to its block i, :math:`c + s u u^T z^i`, `(B, n)`.

        Arguments:
            flat: the rows `(B, n)`.
            constant: c, `(B, 1 + J, k)`. Permutations for which it and `scale` are zero cost nothing.
            scale: s, `(B, 1 + J)`.
            vector: u, `(B, 1 + J, k)`.
        """


def get_permutations(size: int, permutations: int, block: int, family: Family, device: torch.device) -> Permutations:
    """The identity and `permutations` random permutations of `size` elements; always the same ones.

    Raises:
        ArgumentError: the blocks do not divide the elements.
    """
    check_blocks(size, block)
    return _build(size, permutations, block, family, device)


def check_blocks(size: int, block: int) -> None:
    """Raise `ArgumentError` unless blocks of that many elements divide them; it names some that do."""
    if block < 1 or size % block:
        allowed = [k for k in (1, 2, 3, 4, 5, 6, 8, 16, 32) if size % k == 0]
        raise ArgumentError(f"block must divide the {size} live elements of a row, got {block}; try one of {allowed}")


@functools.lru_cache(maxsize=4)
def _build(size: int, permutations: int, block: int, family: Family, device: torch.device) -> Permutations:
    kind = {"strided": StridedPermutations, "random": RandomPermutations}[family]
    built = kind(size, permutations, block, device)
    return SmallPermutations(built.index(), block) if size * (1 + permutations) <= AT_ONCE else built


def _bases(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Random permutations `(count, size)`."""
    empty = torch.empty(0, size, dtype=torch.long)
    return torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]) if count else empty


def _gram(columns: Tensor) -> Tensor:
    """The sum over blocks of their outer products, `(..., k, k)` in double precision, of `(..., k, m)`."""
    whole = columns.shape[-1] // LENGTH * LENGTH
    body = columns[..., :whole].unflatten(-1, (-1, LENGTH)).transpose(-3, -2)
    rest = columns[..., whole:].double()
    return (body @ body.transpose(-2, -1)).double().sum(-3) + rest @ rest.transpose(-2, -1)


def _total(columns: Tensor) -> Tensor:
    """The sum over blocks, `(..., k)` in double precision, of `(..., k, m)`."""
    whole = columns.shape[-1] // LENGTH * LENGTH
    body = columns[..., :whole].unflatten(-1, (-1, LENGTH)).sum(-1)
    return body.double().sum(-1) + columns[..., whole:].double().sum(-1)


def _active(constant: Tensor, scale: Tensor) -> list[int]:
    """The permutations that add anything to any row."""
    return ((constant != 0).any(2) | (scale != 0)).any(0).nonzero()[:, 0].tolist()


@final
class SmallPermutations(Permutations):
    """Permutations of so few elements that all are gathered at once."""

    def __init__(self, index: Tensor, block: int) -> None:
        self._index, self.block = index, block

    def index(self) -> Tensor:
        return self._index

    def moments(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        means, grams = [], []
        for rows in flat.split(max(1, PASS // self._index.numel())):
            blocks = rows[:, self._index].unflatten(2, (-1, self.block)).double()
            means.append(blocks.mean(2))
            grams.append(blocks.transpose(2, 3) @ blocks / blocks.shape[2])
        return torch.cat(means), torch.cat(grams)

    def gradient(self, flat: Tensor, constant: Tensor, scale: Tensor, vector: Tensor) -> Tensor:
        total, active = torch.zeros_like(flat), _active(constant, scale)
        index, rows_at_once = self._index[active], max(1, PASS // self._index.numel())
        for first in range(0, len(flat) if active else 0, rows_at_once):
            rows = slice(first, first + rows_at_once)
            blocks = flat[rows, index.flatten()].unflatten(1, (len(active), -1, self.block))
            u, c, s = vector[rows, active], constant[rows, active], scale[rows, active]
            along = torch.einsum("bjk,bjmk->bjm", u, blocks) * s[..., None]
            gradient = along[..., None] * u[:, :, None] + c[:, :, None]
            total[rows].index_add_(1, index.flatten(), gradient.flatten(1))
        return total


@final
class RandomPermutations(Permutations):
    """Stored random permutations, 5 bytes an element each.

    They are stored coordinate by coordinate, so that what is gathered is `(k, m)`: sums run along memory. What a
    constant adds to an element depends only on the element's place in its block, of which there are k: a look-up, and
    one look-up serves as many permutations as their places together fit into a byte.
    """

    def __init__(self, size: int, permutations: int, block: int, device: torch.device) -> None:
        self.size, self.block = size, block
        bases = _bases(size, permutations, torch.Generator().manual_seed(0))
        self._columns = bases.view(permutations, -1, block).transpose(1, 2).flatten(1).int().to(device)

    @functools.cached_property
    def _places(self) -> Tensor:
        """The place in its block of each element, in each permutation: `(J, n)`."""
        narrow = torch.uint8 if self.block <= 256 else torch.int32
        place = torch.arange(self.block, device=self._columns.device).to(narrow).repeat_interleave(self._count)
        places = torch.empty_like(self._columns, dtype=narrow)
        for row, columns in zip(places, self._columns, strict=True):
            row[columns.long()] = place
        return places

    @property
    def _count(self) -> int:
        return self.size // self.block

    def index(self) -> Tensor:
        identity = torch.arange(self.size, device=self._columns.device)[None]
        return torch.cat([identity, self._columns.view(-1, self.block, self._count).transpose(1, 2).flatten(1).long()])

    def moments(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        means, grams = [], []
        for row in flat:
            gathered = torch.empty_like(row)
            columns = [row.view(-1, self.block).T]
            totals, sums = [_total(columns[0])], [_gram(columns[0])]
            for base in self._columns:
                blocks = torch.index_select(row, 0, base, out=gathered).view(self.block, -1)
                totals.append(_total(blocks))
                sums.append(_gram(blocks))
            means.append(torch.stack(totals))
            grams.append(torch.stack(sums))
        return torch.stack(means) / self._count, torch.stack(grams) / self._count

    def gradient(self, flat: Tensor, constant: Tensor, scale: Tensor, vector: Tensor) -> Tensor:
        total = torch.zeros_like(flat)
        for row, z, c, s, u in zip(total, flat, constant, scale, vector, strict=True):
            blocks = z.view(-1, self.block)
            row += ((blocks @ (u[0] * s[0]))[:, None] * u[0] + c[0]).flatten()
            self._add_constants(row, c[1:], (c[1:] != 0).any(1).nonzero()[:, 0].tolist())
            for j in s[1:].nonzero()[:, 0].tolist():
                base = self._columns[j]
                columns = z.index_select(0, base).view(self.block, -1)
                direction = u[1 + j]
                row.index_add_(0, base, torch.outer(direction, (direction * s[1 + j]) @ columns).flatten())
        return total

    def _add_constants(self, row: Tensor, constant: Tensor, active: Sequence[int]) -> None:
        """Add to each element the constants `(J, k)` of its place in each active permutation."""
        together = 1
        while self.block ** (together + 1) <= 256 and together < 8:
            together += 1
        for first in range(0, len(active), together):
            some = active[first : first + together]
            place, sums = self._places[some[0]], constant[some[0]]
            for j in some[1:]:
                place = place * self.block + self._places[j]
                sums = (sums[:, None] + constant[j]).flatten()
            row += sums.index_select(0, place.int())


class Read(NamedTuple):
    """How a stored permutation is read: with a stride, from a shift on, wrapping around."""

    base: int
    stride: int
    shift: int


@final
class StridedPermutations(Permutations):
    """Few stored permutations, each read with many strides and shifts."""

    def __init__(self, size: int, permutations: int, block: int, device: torch.device) -> None:
        self.size, self.block = size, block
        generator = torch.Generator().manual_seed(0)
        self._bases = _bases(size, min(STORED, permutations), generator).to(device)
        strides = [s for s in range(1, size // block + 1) if size % (block * s) == 0]
        strides = [s for s in strides if s >= 32] or strides  # short strides are slow to read
        self._reads = [Read(-1, 1, 0)]
        for j in range(permutations):
            which, shift = (int(torch.randint(high, (1,), generator=generator)) for high in (len(strides), size))
            self._reads.append(Read(j % STORED, strides[which], shift))

    def index(self) -> Tensor:
        every = [torch.arange(self.size, device=self._bases.device), *self._bases]
        return torch.stack(
            [self._view(torch.cat([every[read.base + 1]] * 2)[None], read).mT.flatten() for read in self._reads]
        )

    def moments(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.empty(len(flat), len(self._reads), self.block, dtype=torch.float64, device=flat.device)
        grams = means.new_empty(*means.shape, self.block)
        for base in range(-1, len(self._bases)):
            doubled = self._doubled(flat, base)
            for j, read in self._of(base):
                if read.stride == 1:
                    columns = self._view(doubled, read)[..., 0].mT
                    means[:, j], grams[:, j] = _total(columns), _gram(columns)
                else:
                    blocks = self._view(doubled, read)
                    means[:, j] = blocks.sum(3).double().sum(1)
                    grams[:, j] = (blocks @ blocks.mT).double().sum(1)
        count = self.size // self.block
        return means / count, grams / count

    def gradient(self, flat: Tensor, constant: Tensor, scale: Tensor, vector: Tensor) -> Tensor:
        total, active = torch.zeros_like(flat), set(_active(constant, scale))
        for base in range(-1, len(self._bases)):
            mine = [(j, read) for j, read in self._of(base) if j in active]
            if not mine:
                continue
            doubled = self._doubled(flat, base)
            gradient = torch.zeros_like(doubled)
            for j, read in mine:
                part = self._view(gradient, read)
                if scale[:, j].any():
                    blocks = self._view(doubled, read)
                    along = torch.einsum("bk,bcks->bcs", vector[:, j] * scale[:, j, None], blocks)
                    part.addcmul_(vector[:, j, None, :, None], along[:, :, None])
                part += constant[:, j, None, :, None]
            folded = gradient[:, : self.size] + gradient[:, self.size :]
            total.add_(folded) if base < 0 else total.index_add_(1, self._bases[base], folded)
        return total

    def _of(self, base: int) -> list[tuple[int, Read]]:
        return [(j, read) for j, read in enumerate(self._reads) if read.base == base]

    def _doubled(self, flat: Tensor, base: int) -> Tensor:
        """Rows after a stored permutation, twice in succession `(B, 2n)`."""
        ordered = flat if base < 0 else flat.index_select(1, self._bases[base])
        return torch.cat([ordered, ordered], 1)

    def _view(self, doubled: Tensor, read: Read) -> Tensor:
        """A view `(B, c, k, s)` of doubled rows: blocks lie along k."""
        return doubled[:, read.shift : read.shift + self.size].view(len(doubled), -1, self.block, read.stride)
