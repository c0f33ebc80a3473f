r"""NTRK: each step's noise is turned part of the way towards the gradient, whitened so that it still looks like noise.

.. math:: z' = \sqrt{1 - \rho} \, z + \sqrt\rho \, W(g), \qquad g = \nabla_{x_t} r(\hat x_0(x_t)).

W keeps the phases of a field's spatial Fourier transform, channel by channel, and sets all magnitudes to one: a field
of unit variance with the flat spectrum of white noise. A gradient is smooth and points one way; whitened, it is spread
over all frequencies, so that no band of the noise and no draw's norm gives it away. Mean and variance of the step stay
what the sampler makes them, and the first draw stays the seed's. Frequencies in which g is zero keep the draw.

What it costs: one backward per step, on top of the run. It is plausible as noise, but a large :math:`\rho` still leads
to images that the model would not make: choose it by the image test, as the method `ntrk` does. When not to use it: the
reward is a black box, or the sampler has no noise of its own (eta = 0).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.samplers.guide import Guide, Redraw, SamplerStep

__all__ = ["NTRK", "tilt"]


@final
class NTRK(Guide):
    r"""Noise tilting.

    Arguments:
        share: :math:`\rho`, how much of each step's variance follows the gradient; for all rows, or `(B,)`.

    References:
        Noise tilting, https://arxiv.org/abs/2606.18066 (re-derived; no code was published)

    Example:
        >>> from noiseward import Budget, Guided, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=Guided(NTRK(), samples=2), budget=Budget(steps=1))
        >>> bool((solution.gain > 0).all())
        True
    """

    gradient = True

    def __init__(self, share: float | Tensor = 0.2) -> None:
        self.share = torch.as_tensor(share, dtype=torch.float64)
        if not bool(((self.share >= 0) & (self.share <= 1)).all()):
            raise ArgumentError(f"share must be in [0, 1], got {share}")

    def __call__(self, step: SamplerStep) -> Redraw:
        gradient = step.pull(step.score(step.clean))
        return Redraw(lambda draw: tilt(draw, gradient, self.share))


def tilt(draw: Tensor, gradient: Tensor, share: Tensor) -> Tensor:
    """A draw `(B, *X)` turned towards a gradient of its shape, whitened over the last two axes.

    Example:
        >>> draw = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16) + 0.01 * draw.flip(2)
        >>> tilted = tilt(draw, ramp, torch.tensor(0.2))
        >>> bool((tilted * ramp).sum() > (draw * ramp).sum()), abs(tilted.std().item() - 1) < 0.05
        (True, True)
    """
    kind = torch.promote_types(draw.dtype, torch.float32)
    old, way = (torch.fft.fft2(_image(part).to(kind), norm="ortho") for part in (draw, gradient))
    size = way.abs()
    least = 1e-6 * size.flatten(1).amax(1).view(-1, *(1,) * (size.ndim - 1))  # below it is rounding
    rho = share.to(size).view(-1, *(1,) * (size.ndim - 1))
    white = way / torch.where(size > 0, size, 1.0)
    new = torch.where(size > least, (1 - rho).sqrt() * old + rho.sqrt() * white, old)
    return torch.fft.ifft2(new, norm="ortho").real.to(draw.dtype).view_as(draw)


def _image(field: Tensor) -> Tensor:
    return field if field.ndim >= 3 else field[:, None]
