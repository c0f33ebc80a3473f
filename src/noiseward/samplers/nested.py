r"""Nested samplers: noise of a sampler of few steps carried to one of many, and back.

DDIM with :math:`\eta = 1` steps from the level :math:`a_u` to :math:`a_s` by

.. math::
    x_s = \sqrt{a_s} \hat x_0 + A(u \to s) (x_u - \sqrt{a_u} \hat x_0) + \sigma(u \to s) z, \qquad
    A = \frac{1 - a_s}{1 - a_u} \sqrt{\frac{a_u}{a_s}}, \qquad
    \sigma^2 = \frac{1 - a_s}{1 - a_u} \Big( 1 - \frac{a_u}{a_s} \Big).

A telescopes, :math:`A(t \to u) A(u \to s) = A(t \to s)`. So where a coarse step from t to s is m fine ones over the
levels :math:`t = u_0, \dots, u_m = s`, and as long as :math:`\hat x_0` stays the same between, the fine draws
:math:`z_1 \dots z_m` lead to the same :math:`x_s` as the coarse draw

.. math::
    z = \sum_j q_j z_j, \qquad q_j = \frac{A(u_j \to s) \, \sigma(u_{j-1} \to u_j)}{\sigma(t \to s)}, \qquad
    \sum_j q_j^2 = 1.

(For m = 2 these are :math:`c = A(u \to s) \sigma(t \to u) / \sigma(t \to s)` and
:math:`d = \sigma(u \to s) / \sigma(t \to s)`.) The first draw, where the fine sampler starts from a noisier state, is
such a sum too, with :math:`\sqrt{1 - a}` instead of :math:`\sigma`. With the rows q of all coarse draws as a
matrix Q, whose rows are orthonormal,

.. math::
    \text{coarse} = Q \cdot \text{fine}, \qquad
    \text{fine} = Q^\top \text{coarse} + (I - Q^\top Q) \cdot \text{rest}.

Both keep Gaussian noise exactly Gaussian, since :math:`Q Q^\top = I` and :math:`[Q^\top, I - Q^\top Q]` has orthonormal
rows as well. `rest` is fresh noise, or the fine noise that the coarse one was made from: going down and up
again then changes nothing, and a change of the coarse noise does not affect what the coarse sampler does not see.

How close the two images are depends on how little :math:`\hat x_0` changes within a coarse step: they are similar, not
equal. Other samplers do not mix
their noise this way, and are refused.

*Step length.* Adam changes every element by about its rate. m fine draws that all change by it change the coarse draw
they make up by :math:`\sum_j q_j \le \sqrt m` times as much. At :math:`\sqrt{M / N}` times the rate, for N coarse and M
fine draws (`Nested.stretch`), steps on the coarse sampler have the same length; a plain gradient step needs no
correction. It is off by default: see docs/compare.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError

__all__ = ["Nested"]


@final
class Nested:
    """Two schedules of DDIM at eta = 1, the coarse one's levels among the fine one's.

    Arguments:
        coarse, fine: the level a of each state that is stepped from, rising, and of the end: N + 1 for N steps.

    Attributes:
        matrix: Q, `(coarse draws, fine draws)`, float64; a draw for the start and one per step.
        stretch: how many times the rate makes Adam's steps on the coarse sampler as long as on the fine one.

    Raises:
        ArgumentError: levels that do not rise within 0 to 1, or are not nested.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> coarse, fine = (GaussianModel(steps=steps).alphas[::-1] for steps in (2, 4))
        >>> nested = Nested(coarse, fine)
        >>> noise = torch.randn(1, 5, 2)
        >>> nested.coarsen(noise).shape
        torch.Size([1, 3, 2])
        >>> torch.allclose(nested.refine(nested.coarsen(noise), rest=noise), noise)
        True
    """

    def __init__(self, coarse: Sequence[float], fine: Sequence[float]) -> None:
        for name, levels in (("coarse", coarse), ("fine", fine)):
            if len(levels) < 2 or not all(0 < a < b <= 1 for a, b in zip(levels, levels[1:], strict=False)):
                raise ArgumentError(f"{name} levels must rise within (0, 1], got {_show(levels)}")
        at = [_find(level, fine) for level in coarse]
        if None in at or at[-1] != len(fine) - 1:
            raise ArgumentError(
                f"the coarse sampler's levels must be among the fine one's {_show(fine)}, got {_show(coarse)}; take "
                "numbers of steps of which one divides the other, as 10 and 50"
            )
        places = [place for place in at if place is not None]
        rows = torch.zeros(len(coarse), len(fine), dtype=torch.float64)
        rows[0, : places[0] + 1] = _weights(fine[: places[0] + 1], from_noise=True)
        for k, (start, end) in enumerate(zip(places, places[1:], strict=False)):
            rows[k + 1, start + 1 : end + 1] = _weights(fine[start : end + 1], from_noise=False)
        self.matrix = rows
        self.stretch = math.sqrt(len(fine) / len(coarse))

    def coarsen(self, noise: Tensor) -> Tensor:
        """The coarse noise `(B, coarse draws, *S)` that does what fine noise `(B, fine draws, *S)` does."""
        return self._times(self.matrix, noise)

    def refine(self, noise: Tensor, *, rest: Tensor) -> Tensor:
        """The fine noise of coarse noise.

        Arguments:
            noise: `(B, coarse draws, *S)`.
            rest: `(B, fine draws, *S)`, for all that the coarse noise does not determine.
        """
        if noise.shape[0] != rest.shape[0] or noise.shape[2:] != rest.shape[2:]:
            raise ArgumentError(f"rest must fit noise of shape {tuple(noise.shape)}, got {tuple(rest.shape)}")
        return rest + self._times(self.matrix.T, noise - self._times(self.matrix, rest))

    def _times(self, matrix: Tensor, noise: Tensor) -> Tensor:
        if noise.ndim < 2 or noise.shape[1] != matrix.shape[1]:
            raise ArgumentError(f"noise: expected {matrix.shape[1]} draws, got shape {tuple(noise.shape)}")
        return torch.einsum("cf,bf...->bc...", matrix.to(noise), noise)


def _weights(levels: Sequence[float], *, from_noise: bool) -> Tensor:
    """q of the draws that lead over some levels: one for each step, after one for the start if that is pure noise."""
    end = levels[-1]
    sizes = [math.sqrt(1 - levels[0])] if from_noise else []
    sizes += [_sigma(u, s) for u, s in zip(levels, levels[1:], strict=False)]
    reached = levels if from_noise else levels[1:]
    if end == 1:  # no noise is left; in the limit that of the last draw vanishes last
        return torch.tensor([0.0] * (len(sizes) - 1) + [1.0], dtype=torch.float64)
    weights = torch.tensor([size * _keep(u, end) for size, u in zip(sizes, reached, strict=True)], dtype=torch.float64)
    return weights / weights.norm()  # the norm is sigma of the whole way, to rounding


def _sigma(u: float, s: float) -> float:
    return math.sqrt((1 - s) / (1 - u) * (1 - u / s))


def _keep(u: float, s: float) -> float:
    """A(u -> s)."""
    return 1.0 if u == s else (1 - s) / (1 - u) * math.sqrt(u / s)


def _find(level: float, levels: Sequence[float]) -> int | None:
    return next((k for k, one in enumerate(levels) if math.isclose(level, one, rel_tol=1e-6)), None)


def _show(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:.4g}" for level in levels[:3]) + (", ..." if len(levels) > 3 else "")
