r"""Whether the rows of a batch are what they are alone.

*Row law*: row i of a batch depends on row i of the noise and of the prompts alone. A sampler breaks it that takes a
mean over the batch, or something of the first row for all. It shows when a row is sampled alone as well:

.. math::
    g = \|M(z)_i - M(z_i)\|, \qquad g \gg \text{rounding}.

Matrix kernels round differently for other batch sizes, and a chaotic sampler makes much of little, so g is compared
with two scales: how far the other rows' samples are, which is what a neighbor's influence is a share of, and, where
that is not small, how far row i alone changes when its noise changes by as much as rounding would.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

__all__ = ["Comparison", "coarsest_eps", "is_whole_required", "row_dependence", "require_whole"]

SHARE = 1e-3  # of the distance between rows that rounding explains in float32; a tiny UNet takes 3e-5
APART = 0.3  # of their size: rows of noise that are nearer to each other than this tell little
BEYOND = 3.0  # times what rounding changes


_WHOLE = contextvars.ContextVar("whether rows go in one call as they are", default=False)


@contextlib.contextmanager
def require_whole() -> Iterator[None]:
    """For the body of a `with`, a batch that cannot go in one call is an error, and rows are not compared."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def is_whole_required() -> bool:
    """Whether this is the body of :func:`require_whole`."""
    return _WHOLE.get()


@final
class Comparison:
    """Compares the last and the first row of a batch with themselves alone, once per batch size.

    Two, because what all rows take from one of them does not show in that one: the last row cannot tell that it is
    added to all others.
    """

    def __init__(self) -> None:
        self._sizes: set[int] = set()
        self._paired = False

    def dependence(
        self,
        noise: Tensor,
        prompt: list[str] | None,
        samples: Tensor,
        *,
        sample: Callable[[Tensor, list[str] | None], Tensor],
        fresh: Callable[[Sequence[int]], Tensor],
        eps: float,
    ) -> float | None:
        """How much a row depends on its batch, as a share of how far rows are apart; None where neither does.

        Arguments:
            noise: `(B, *noise_shape)`.
            prompt: one per row, or None.
            samples: their samples.
            sample: samples some noise with its prompts.
            fresh: noise of some seeds. Where the rows are near to each other, as candidates are, they hardly tell, and
                two rows that are not are asked instead, once.
            eps: see `coarsest_eps`.
        """
        if noise.shape[0] in self._sizes:
            return None
        self._sizes.add(noise.shape[0])
        noise = noise.detach()
        if not _varied(noise):
            if self._paired:
                return None
            self._paired = True
            noise = torch.cat([fresh([0]).to(noise), noise[-1:]])
            prompt = None if prompt is None else [prompt[0], prompt[-1]]
            samples = sample(noise, prompt)
        shares = (self._share(noise, prompt, samples, row, sample, eps) for row in (noise.shape[0] - 1, 0))
        return next((share for share in shares if share is not None), None)

    @staticmethod
    def _share(
        noise: Tensor,
        prompt: list[str] | None,
        samples: Tensor,
        row: int,
        sample: Callable[[Tensor, list[str] | None], Tensor],
        eps: float,
    ) -> float | None:
        """How much one row depends on the others."""
        alone, of = noise[row : row + 1], prompt and prompt[row : row + 1]
        at_end = samples.roll(samples.shape[0] - 1 - row, 0)
        return row_dependence(at_end, sample(alone, of), lambda: sample(_rounding(alone, eps), of), eps)


def _varied(noise: Tensor) -> bool:
    """Whether some row differs from the last one enough to tell by.

    Example:
        >>> _varied(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), _varied(torch.ones(3, 2))
        (True, False)
    """
    rows = noise.detach().flatten(1).double()
    return bool(((rows - rows[-1:]).norm(dim=1) > APART * rows[-1].norm()).any())


def coarsest_eps(dtypes: Iterable[torch.dtype], device: torch.device) -> float:
    """The relative rounding error of the least precise of some types where a sampler computes."""
    epsilons = [torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point]
    eps = max(epsilons, default=torch.finfo(torch.float32).eps)
    return max(eps, 1e-3) if device.type == "cuda" and eps > 1e-10 else eps  # TF32 in matrix products


def _rounding(noise: Tensor, eps: float) -> Tensor:
    """Noise changed by as much as the rounding of a whole network would change it."""
    nudge = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2)).to(noise)
    return noise.detach() + min(30 * eps, 0.02) * nudge


def row_dependence(batch: Tensor, alone: Tensor, nudged: Callable[[], Tensor], eps: float) -> float | None:
    """How much the last row of a batch differs from itself alone, as a share of how far the rows are apart.

    Arguments:
        batch: samples `(B, *X)`.
        alone: `(1, *X)`.
        nudged: the last row alone, its noise changed by as much as by rounding; called only where it matters.
        eps: see `coarsest_eps`.

    Returns:
        the share, or None where rounding explains it.
    """
    rows, single = batch.detach().double().flatten(1), alone.detach().double().flatten()
    gap = _size(rows[-1] - single)
    if gap == 0:
        return None
    if not math.isfinite(gap):
        return math.inf if single.isfinite().all() else None
    apart = [size for row in rows[:-1] if math.isfinite(size := _size(row - rows[-1]))]
    share = gap / (max(apart, default=0.0) or _size(single) or gap)
    if share <= max(SHARE, 10 * eps):
        return None
    return share if gap > BEYOND * _size(nudged().detach().double().flatten() - single) else None


def _size(difference: Tensor) -> float:
    return difference.square().mean().sqrt().item()
