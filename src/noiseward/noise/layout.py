r"""Noise: the Gaussian draws of one run of a sampler, as one tensor.

A sampler asks for K Gaussian draws, one after the other: a start :math:`x_T`, then :math:`z_T, \dots, z_1`. For a
batch of B independent rows they are packed into one tensor, float32 or float64, whose first axis is the row:

* `(B, K, *S)` when every draw has the same number of elements, S being the first draw's shape;
* `(B, 1, N)` otherwise, the draws laid end to end.

A :class:`Layout` knows how to cut that tensor into draws and join it again. Each :class:`Draw` has a role:

* `start`: drawn before the denoiser is first called;
* `step`: drawn afterwards, one per stochastic sampler step;
* `other`: drawn for something else (a VAE posterior, say): replayed, never changed.

and it is *live* when the sample depends on it. Many samplers make a last draw and multiply it by zero: such a dead draw
does not show in the image, so it is listed, never changed, and left out of every statement about how plausible the
noise is.

Random choices (initial noise, search directions, permutations) come from :class:`Seeds`: each has a row, a step and a
purpose, so no generator state is ever stored and a row's choices do not depend on its neighbors.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence, Set
from typing import Literal

import torch
from torch import Tensor

from noiseward.errors import ArgumentError

__all__ = ["Draw", "Layout", "Role", "Seeds", "name_draws"]

Role = Literal["start", "step", "other"]


@dataclasses.dataclass(frozen=True)
class Draw:
    """One Gaussian draw of one row.

    Arguments:
        name: in messages, such as `start` or `step 3`.
        shape: its shape for one row, without the batch axis.
        role: `start`, `step` or `other` (see the module).
        live: whether the sample depends on it.
        dtype: the precision in which the sampler asks for it.
        after: how many sampler steps have begun when it is made; 0 where the steps are not known.
        from_generator: whether the sampler draws it from the generator it is given; pipelines do not for some draws.

    Example:
        >>> draw = Draw("step 1", (4, 8, 8))
        >>> draw.size, draw.movable
        (256, True)
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "step"
    live: bool = True
    dtype: torch.dtype = torch.float32
    after: int = 0
    from_generator: bool = False

    @property
    def size(self) -> int:
        """Number of elements of one row."""
        return math.prod(self.shape)

    @property
    def movable(self) -> bool:
        """Whether an optimizer may change it: live, and not the noise of something else."""
        return self.live and self.role != "other"


def name_draws(
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[torch.dtype],
    *,
    others: set[int],
    begun: Sequence[int],
    from_generator: Set[int] = frozenset(),
) -> tuple[Draw, ...]:
    """Name the draws of a run, in order, by their roles.

    Arguments:
        shapes: of one row of each.
        dtypes: in which each was asked for.
        others: numbers of those made for something else.
        begun: for each sampler step, how many draws were made before it; empty where the steps are not known, and then
            the first is the start.
        from_generator: numbers of those asked of a generator.

    Example:
        >>> [draw.name for draw in name_draws([(2,)] * 3, [torch.float32] * 3, others={0}, begun=[2])]
        ['other', 'start', 'step 1']
    """
    own = [k for k in range(len(shapes)) if k not in others]
    starts = [k for k in own if k < begun[0]] if begun else own[:1]
    roles: list[Role] = ["other" if k in others else "start" if k in starts else "step" for k in range(len(shapes))]
    draws = []
    for k, (shape, dtype, role) in enumerate(zip(shapes, dtypes, roles, strict=True)):
        alone = role != "step" and roles.count(role) == 1
        name = role if alone else f"{role} {roles[: k + 1].count(role)}"
        after = bisect.bisect_right(begun, k)
        draws.append(Draw(name, shape, role, dtype=dtype, after=after, from_generator=k in from_generator))
    return tuple(draws)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The draws of one run of a sampler, in order, and how they are packed.

    Arguments:
        draws: every draw, in the order the sampler asks for them.
        device: where the sampler asks for them; fresh noise is put there.
        steps: how many sampler steps a run has; 0 where the denoiser is not known.

    Example:
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"), Draw("step 1", (4, 8, 8))))
        >>> layout.noise_shape
        (2, 4, 8, 8)
        >>> start, step = layout.split(torch.zeros(3, 2, 4, 8, 8))
        >>> start.shape
        torch.Size([3, 4, 8, 8])
    """

    draws: tuple[Draw, ...]
    device: torch.device = torch.device("cpu")
    steps: int = 0

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.draws)

    @property
    def size(self) -> int:
        """Number of elements of one row of noise."""
        return sum(draw.size for draw in self.draws)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one row of noise: `(K, *S)`, or `(1, N)` when the draws differ in size."""
        if len({draw.size for draw in self.draws}) == 1:
            return (len(self.draws), *self.draws[0].shape)
        return (1, self.size)

    @property
    def dtype(self) -> torch.dtype:
        """That of fresh noise: float32, or float64 if any draw is."""
        return torch.float64 if any(draw.dtype == torch.float64 for draw in self.draws) else torch.float32

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of the draws that the sample does not depend on."""
        return tuple(draw.name for draw in self.draws if not draw.live)

    def check(self, noise: Tensor) -> None:
        """Raise `ArgumentError` unless `noise` is a batch of floating-point rows of this layout."""
        if noise.shape[1:] != self.noise_shape or noise.ndim == 0:
            shape = str(self.noise_shape)[1:-1]
            raise ArgumentError(f"noise: expected shape (B, {shape}), got {tuple(noise.shape)}")
        if noise.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(f"noise: expected float32 or float64, got {noise.dtype}; low precision loses its tails")

    def split(self, noise: Tensor) -> list[Tensor]:
        """Cut noise `(B, *noise_shape)` into its draws, each `(B, *draw.shape)`; views, no copies."""
        flat = noise.reshape(noise.shape[0], -1).split([draw.size for draw in self.draws], dim=1)
        return [part.reshape(-1, *draw.shape) for part, draw in zip(flat, self.draws, strict=True)]

    def join(self, draws: Sequence[Tensor]) -> Tensor:
        """Pack draws, each `(B, *draw.shape)`, into noise `(B, *noise_shape)`: the inverse of `split`."""
        flat = torch.cat([part.reshape(part.shape[0], -1) for part in draws], dim=1)
        return flat.reshape(-1, *self.noise_shape)

    def keep(self, keep: Sequence[bool], noise: Tensor) -> Tensor:
        """Set every draw k of some noise to zero unless `keep[k]`."""
        if all(keep):
            return noise
        return self.join(
            [part if kept else torch.zeros_like(part) for part, kept in zip(self.split(noise), keep, strict=True)]
        )

    def zero_fixed(self, direction: Tensor) -> Tensor:
        """Set a direction `(B, *noise_shape)` to zero on draws that may not change."""
        return self.keep([draw.movable for draw in self.draws], direction)

    def movable_part(self, noise: Tensor) -> Tensor:
        """The noise that counts for plausibility, `(B, n)`: the draws that may change, laid end to end."""
        parts = [part for part, draw in zip(self.split(noise), self.draws, strict=True) if draw.movable]
        return torch.cat([part.reshape(noise.shape[0], -1) for part in parts], dim=1)

    def draw_noise(self, seeds: Sequence[int]) -> Tensor:
        """Draw standard normal noise `(len(seeds), *noise_shape)`, in this layout's `dtype`.

        Row i draws the layout in order, in each draw's own precision, from one CPU generator seeded `seeds[i]`: what a
        diffusers pipeline does with `generator=torch.Generator().manual_seed(seeds[i])`. Draws for which a sampler does
        not use the generator it is given come after those for which it does.
        """
        order = sorted(range(len(self.draws)), key=lambda k: not self.draws[k].from_generator)
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            row = {k: torch.randn(self.draws[k].shape, generator=generator, dtype=self.draws[k].dtype) for k in order}
            rows.append(row)
        columns = [torch.stack([row[k] for row in rows]).to(self.dtype) for k in range(len(self.draws))]
        return self.join(columns).to(self.device)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Randomness addressed by row, step and purpose; there is no state to save.

    Arguments:
        rows: one seed per row.
        step: the step of the loop the choices belong to.

    Example:
        >>> seeds = Seeds((7, 8))
        >>> a = torch.randn(2, generator=seeds.at(3).generator(0, "candidate"))
        >>> b = torch.randn(2, generator=Seeds((7,), step=3).generator(0, "candidate"))
        >>> bool((a == b).all())
        True
    """

    rows: tuple[int, ...]
    step: int = 0

    def at(self, step: int) -> Seeds:
        """The same rows at another step."""
        return dataclasses.replace(self, step=step)

    def generator(self, row: int, purpose: str) -> torch.Generator:
        """A fresh CPU generator for one purpose of one row at this step."""
        address = f"{self.rows[row]}/{self.step}/{purpose}".encode()
        digest = hashlib.blake2b(address, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
