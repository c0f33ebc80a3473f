r"""Projections: hard constraints that Gaussian noise meets, imposed on directions and on noise.

A penalty favors plausible noise; a **projection** enforces it. After each step the noise is replaced by the nearest
point of a set on which (almost) all Gaussian noise lies, draw by draw and row by row:

* :class:`NormProjection`: the sphere :math:`\|z\|_2 = \sqrt N` of each draw of N elements. The norm of Gaussian noise
  deviates from it by a share of :math:`1/\sqrt{2N}` (one standard deviation).
* :class:`SpectralProjection`: the flat spectrum of white noise. The unitary discrete Fourier transform of a draw, its
  redundant half dropped, is N/2 complex numbers :math:`y_j`, independent and standard complex normal if z is Gaussian:
  the real :math:`X_0, X_{N/2}` become :math:`y_0 = (X_0 + i X_{N/2})/\sqrt2`. In blocks of b = 16 neighboring
  frequencies their magnitudes are projected to the nearest point with the expected sums,

  .. math::
      \sum_j |y_j| = \tfrac{\sqrt\pi}{2} b, \qquad \sum_j |y_j|^2 = b,

  phases kept. The nearest point is a soft threshold, :math:`|y_j| \mapsto s \, (|y_j| - \tau)_+`, with s and
  :math:`\tau` in closed form once the magnitudes are sorted. A wave, a checkerboard or a shift concentrates power in
  few frequencies, and the projection removes it. The same is done to the direction before the optimizer sees it.

:class:`StartOnly` constrains what may change at all: the draws made before the first step.

References: "Gradient preconditioning" for reward-guided noise optimization, https://arxiv.org/abs/2602.08646
(re-derived).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Layout

__all__ = ["NormProjection", "Projection", "SpectralProjection", "StartOnly"]


class Projection(abc.ABC):
    """Replaces noise, and directions, by the nearest that meet a constraint; draws that may not change stay.

    Example:
        >>> from noiseward.noise.layout import Draw
        >>> layout = Layout((Draw("start", (4,), "start"),))
        >>> NormProjection().noise(torch.full((1, 1, 4), 3.0), layout).tolist()  # of norm 2, the root of 4
        [[[1.0, 1.0, 1.0, 1.0]]]
    """

    @abc.abstractmethod
    def noise(self, noise: Tensor, layout: Layout) -> Tensor:
        """The projected noise, `(B, *noise_shape)`."""

    @abc.abstractmethod
    def direction(self, direction: Tensor, layout: Layout) -> Tensor:
        """The projected direction, `(B, *noise_shape)`; its norm carries no meaning. Zero stays zero."""

    def check(self, layout: Layout) -> None:
        """Raise `ArgumentError` if noise of that layout cannot be projected, before anything is sampled."""
        return


@final
class NormProjection(Projection):
    r"""Each draw on its sphere, :math:`z \mapsto \sqrt N z / \|z\|`; directions are left as they are.

    Example:
        >>> from noiseward.noise.layout import Draw
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"),))
        >>> z = NormProjection().noise(3 * layout.draw_noise([0]), layout)
        >>> round(z.norm().item(), 4)
        16.0
    """

    def noise(self, noise: Tensor, layout: Layout) -> Tensor:
        return _each_draw(noise, layout, lambda flat: flat * math.sqrt(flat.shape[1]) / flat.norm(dim=1, keepdim=True))

    def direction(self, direction: Tensor, layout: Layout) -> Tensor:
        return direction


@final
class SpectralProjection(Projection):
    """Each draw's spectrum made that of white noise, for the noise and for the direction.

    Every draw that may change must have a multiple of 32 elements.

    Example:
        >>> from noiseward.noise.layout import Draw
        >>> layout = Layout((Draw("start", (4, 8, 8), "start"),))
        >>> z = layout.draw_noise([0])
        >>> white = SpectralProjection().noise(z, layout)
        >>> shifted = SpectralProjection().noise(z + 1, layout)
        >>> bool(torch.cosine_similarity(z.flatten(), white.flatten(), dim=0) > 0.98), bool(shifted.mean() < 0.25)
        (True, True)
    """

    block = 16

    def noise(self, noise: Tensor, layout: Layout) -> Tensor:
        self.check(layout)
        return _each_draw(noise, layout, self._whiten)

    def direction(self, direction: Tensor, layout: Layout) -> Tensor:
        self.check(layout)

        def whiten(flat: Tensor) -> Tensor:
            size = flat.norm(dim=1, keepdim=True)
            unit = flat * math.sqrt(flat.shape[1]) / size.clamp(min=torch.finfo(flat.dtype).tiny)
            return torch.where(size > 0, self._whiten(unit), flat)

        return _each_draw(direction, layout, whiten)

    def check(self, layout: Layout) -> None:
        for draw in layout:
            if draw.movable and draw.size % (2 * self.block):
                raise ArgumentError(
                    f"spectral projection: draws must have a multiple of {2 * self.block} elements, got {draw.size} in "
                    f"'{draw.name}'; use the norm projection"
                )

    def _whiten(self, flat: Tensor) -> Tensor:
        """The nearest white draws of draws `(B, N)`."""
        half = flat.shape[1] // 2
        spectrum = torch.fft.rfft(flat, norm="ortho")
        first = torch.complex(spectrum[:, 0].real, spectrum[:, half].real) / math.sqrt(2)
        folded = torch.cat([first[:, None], spectrum[:, 1:half]], 1)
        blocks = folded.unflatten(1, (-1, self.block))
        white = torch.polar(white_magnitudes(blocks.abs()), blocks.angle()).flatten(1)
        zero = torch.zeros_like(white[:, :1].real)
        lowest, highest = (torch.complex(part * math.sqrt(2), zero) for part in (white[:, :1].real, white[:, :1].imag))
        return torch.fft.irfft(torch.cat([lowest, white[:, 1:], highest], 1), n=flat.shape[1], norm="ortho")


@final
class StartOnly(Projection):
    """Only what is drawn before the first step changes; the noise of the steps stays as it was.

    What methods for one-step models do, and ODE samplers by nature.

    Example:
        >>> from noiseward.noise.layout import Draw
        >>> layout = Layout((Draw("start", (2,), "start"), Draw("step 1", (2,))))
        >>> StartOnly().direction(torch.ones(1, 2, 2), layout).tolist()
        [[[1.0, 1.0], [0.0, 0.0]]]
    """

    def noise(self, noise: Tensor, layout: Layout) -> Tensor:
        return noise

    def direction(self, direction: Tensor, layout: Layout) -> Tensor:
        return layout.keep([draw.role == "start" for draw in layout], direction)

    def check(self, layout: Layout) -> None:
        if not any(draw.role == "start" and draw.movable for draw in layout):
            raise ArgumentError("the sampler has no first draw that may change: leave the projection 'start' out")


def white_magnitudes(magnitudes: Tensor) -> Tensor:
    r"""The nearest magnitudes to `(..., b)` with sum :math:`\sqrt\pi b / 2` and sum of squares b.

    With the k largest magnitudes in the support, :math:`S_1` and :math:`S_2` their sum and sum of squares, and
    :math:`R = \pi b / 4` the target squared sum over sum of squares, the threshold is

    .. math:: \tau_k = \frac1k \Big( S_1 - \sqrt{R (k S_2 - S_1^2) / (k - R)} \Big), \qquad k > R,

    and the right k is the one whose threshold lies between the k-th and the next magnitude.
    """
    block = magnitudes.shape[-1]
    ratio = math.pi / 4 * block
    # equal magnitudes have no nearest point: tell them apart by less than rounding would
    nudge = torch.linspace(1, -1, block, dtype=magnitudes.dtype, device=magnitudes.device)
    spread = magnitudes + nudge * 1e3 * torch.finfo(magnitudes.dtype).eps * magnitudes.amax(-1, keepdim=True).clamp(
        min=1e-3
    )
    spread = spread - spread.mean(-1, keepdim=True)  # tau shifts with its magnitudes; small numbers cancel less
    ordered = spread.sort(dim=-1, descending=True).values
    first, second = ordered.cumsum(-1), ordered.square().cumsum(-1)
    chosen = torch.full_like(magnitudes[..., :1], -math.inf)
    for k in range(math.floor(ratio) + 1, block + 1):
        s1, s2 = first[..., k - 1 : k], second[..., k - 1 : k]
        tau = (s1 - (ratio * (k * s2 - s1.square()).clamp(min=0) / (k - ratio)).sqrt()) / k
        after = ordered[..., k : k + 1] if k < block else torch.full_like(tau, -math.inf)
        chosen = torch.where((tau < ordered[..., k - 1 : k]) & (tau >= after), tau, chosen)
    kept = (spread - chosen).clamp(min=0)
    return kept * math.sqrt(block) / kept.norm(dim=-1, keepdim=True)


def _each_draw(noise: Tensor, layout: Layout, project: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a projection of flat draws `(B, N)` to every draw that may change."""
    parts = layout.split(noise)
    pairs = zip(parts, layout, strict=True)
    return layout.join([project(part.flatten(1)).view_as(part) if draw.movable else part for part, draw in pairs])
