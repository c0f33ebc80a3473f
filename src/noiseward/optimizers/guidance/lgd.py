r"""LGD: guide by the reward averaged over what the sample may still become.

DPS asks for the reward of one predicted sample, but :math:`x_t` leads to many. They are modeled as Gaussian around the
prediction, and n of them vote:

.. math::
    g = \nabla_{x_t} \log \frac1n \sum_{i=1}^n \exp \lambda r(\hat x_0 + r_t \xi_i), \qquad
    r_t = \frac{\sigma_t}{\sqrt{1 + \sigma_t^2}}, \qquad \xi_i \sim N(0, I),

where :math:`\sigma_t` is the noise level of :math:`x_t` over its signal level. This g is added to the score, that is,
by Tweedie's formula to the prediction, and the step is made with that. For a linear reward and Gaussian data it is
exact: samples then follow :math:`p(x) e^{\lambda r(x)}`.

:math:`\lambda` is in units of the reward, which the paper leaves to its user; where it is unknown, `normalize` makes
each row's correction of the next state as long as `length`, DPS's unit.

What it costs: as many denoiser calls as DPS, and n decodings and rewards per step. When not to use it: with latents
whose decoder costs as much as the denoiser; where DPS does as well; and nowhere DPS cannot be used.
"""

from __future__ import annotations

import math
from typing import final

import torch

from noiseward.optimizers.candidates import check_counts, check_positive
from noiseward.optimizers.guidance.dps import normalize_rows
from noiseward.samplers.guide import Guide, SamplerStep, StateShift

__all__ = ["LGD"]


@final
class LGD(Guide):
    r"""Loss-guided diffusion, Monte Carlo.

    Arguments:
        samples: n, 10 or 100 in comparisons.
        scale: :math:`\lambda`.
        normalize: make each row's correction as long as `length`; False for the formula to the letter.
        length: of a normalized correction.

    References:
        Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation (ICML 2023),
        https://proceedings.mlr.press/v202/song23k.html

    Example:
        >>> from noiseward import Budget, Guided, Objective, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> start = objective.sampler.init(2, seed=0)
        >>> solution = optimize(objective, start, optimizer=Guided(LGD(), samples=2), budget=Budget(steps=1))
        >>> bool((solution.gain > 0).all())
        True
    """

    gradient = True

    def __init__(self, samples: int = 10, *, scale: float = 1.0, normalize: bool = True, length: float = 1.0) -> None:
        check_counts(samples=samples)
        check_positive(scale=scale, length=length)
        self.samples, self.scale, self.normalize, self.length = samples, scale, normalize, length

    def __call__(self, step: SamplerStep) -> StateShift:
        spread = step.sigma / math.hypot(step.signal, step.sigma)
        votes = [self.scale * step.score(step.clean + spread * step.fresh(f"vote {i}")) for i in range(self.samples)]
        shift = step.conditioned(step.pull(torch.stack(votes).logsumexp(0)))
        return StateShift(self.length * normalize_rows(shift) if self.normalize else shift)
