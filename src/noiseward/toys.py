r"""Toys: a diffusion model and rewards whose optimum is known.

Data :math:`x_0 \sim N(\mu, \sigma^2 I_d)` have an exact denoiser. With :math:`x_t = \sqrt{a_t} x_0 + \sqrt{1 - a_t}
\epsilon`,

.. math::
    \epsilon^*(x_t, t) = \frac{\sqrt{1 - a_t}}{a_t \sigma^2 + 1 - a_t} (x_t - \sqrt{a_t} \mu),

which is linear, so that every step of DDIM is affine and the whole sampler is

.. math::
    x_0 = b + \sum_{k=0}^{K-1} w_k z_k, \qquad z_0 = x_T,

with scalar weights w known in closed form. Hence :math:`J = (w_0 I, \dots, w_{K-1} I)`, and for instance the noise
nearest to z that reaches a target y is :math:`z + w \otimes (y - M(z)) / \|w\|^2`. The last weight is 0: its draw is
dead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from noiseward.rewards.reward import Reward
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.steps import announce

__all__ = ["GaussianModel", "Linear", "Quadratic"]


@final
class GaussianModel(torch.nn.Module):
    """The exact denoiser of Gaussian data, and its DDIM sampler.

    Arguments:
        steps: number of DDIM steps.
        eta: 0 for the ODE, 1 for the SDE.
        mean, std: of the data, the same in every dimension.
        dim: number of dimensions d.
        dtype: precision in which the sampler draws and computes.

    Attributes:
        weights: `(K,)`, float64: how much each draw weighs in the sample.
        offset: the sample of zero noise, the same in every dimension.

    Example:
        >>> model = GaussianModel(steps=3, dim=2)
        >>> noise = model.sampler().init(1, seed=0)
        >>> sample = model.offset + torch.einsum("k,bkd->bd", model.weights, noise.double())
        >>> torch.allclose(model.sampler()(noise).double(), sample, atol=1e-6)
        True
    """

    def __init__(
        self,
        *,
        steps: int = 5,
        eta: float = 1.0,
        mean: float = 0.5,
        std: float = 0.7,
        dim: int = 2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.mean, self.std, self.eta, self.dim, self.dtype = mean, std, eta, dim, dtype
        self.alphas = [math.cos(0.5 * math.pi * k / steps * 0.98) ** 2 for k in range(steps + 1)]  # a_0 = 1, falling
        self.weights, self.offset = self._closed_form()

    def forward(self, x: Tensor, alpha: float) -> Tensor:
        """The exact noise prediction for x at signal level alpha."""
        gain, shift = self._denoise(alpha)
        return gain * x + shift

    def sample(self, batch: int) -> Tensor:
        """DDIM, drawing its noise with torch: `(batch, d)`."""
        x = torch.randn(batch, self.dim, dtype=self.dtype)
        for now, after in zip(self.alphas[:0:-1], self.alphas[-2::-1], strict=True):

            def step(output: Tensor, x: Tensor, now: float = now, after: float = after) -> tuple[Tensor, Tensor]:
                keep, remove, sigma = self._step(now, after)
                after_x = keep * x + remove * output
                if self.eta > 0:
                    after_x = after_x + sigma * torch.randn(batch, self.dim, dtype=self.dtype)
                return after_x, (x - math.sqrt(1 - now) * output) / math.sqrt(now)

            steps = len(self.alphas) - 1
            x = announce(step, self(x, now), x, of=steps, time=now, signal=math.sqrt(now), sigma=math.sqrt(1 - now))
        return x

    def sampler(self, *, recompute: bool = False) -> FunctionSampler:
        """The sampler as a function of its noise."""
        return FunctionSampler(self.sample, denoiser=self, recompute=recompute)

    def _denoise(self, alpha: float) -> tuple[float, float]:
        gain = math.sqrt(1 - alpha) / (alpha * self.std**2 + 1 - alpha)
        return gain, -gain * math.sqrt(alpha) * self.mean

    def _step(self, now: float, after: float) -> tuple[float, float, float]:
        sigma = self.eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        keep = math.sqrt(after / now)
        return keep, math.sqrt(1 - after - sigma**2) - keep * math.sqrt(1 - now), sigma

    def _closed_form(self) -> tuple[Tensor, float]:
        weights, offset = [1.0], 0.0
        for now, after in zip(self.alphas[:0:-1], self.alphas[-2::-1], strict=True):
            keep, remove, sigma = self._step(now, after)
            gain, shift = self._denoise(now)
            weights = [weight * (keep + remove * gain) for weight in weights]
            offset = offset * (keep + remove * gain) + remove * shift
            if self.eta > 0:
                weights.append(sigma)
        return torch.tensor(weights, dtype=torch.float64), offset


@final
class Linear(Reward):
    r"""The reward :math:`\sum_j a_j x_j`, without a maximum: its gradient is a everywhere.

    Example:
        >>> Linear(2.0)(torch.ones(1, 3), None).tolist()
        [6.0]
    """

    name, differentiable = "linear", True

    def __init__(self, slope: float | Sequence[float]) -> None:
        self.slope = torch.as_tensor(slope, dtype=torch.float64)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return (sample * self.slope.to(sample)).flatten(1).sum(1)


@final
class Quadratic(Reward):
    r"""The reward :math:`-\tfrac12 \|x - y\|^2`, at most 0, reached at the target y.

    Example:
        >>> Quadratic(1.0)(torch.zeros(1, 2), None).tolist()
        [-1.0]
    """

    name, differentiable = "quadratic", True

    def __init__(self, target: float | Sequence[float]) -> None:
        self.target = torch.as_tensor(target, dtype=torch.float64)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        return -0.5 * (sample - self.target.to(sample)).square().flatten(1).sum(1)
