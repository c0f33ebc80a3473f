r"""The image test: does a finished sample look to the model's own denoiser like the samples that the model makes?

Tests of noise (`noise/typicality.py`) see an image only through the noise that it came from. This one asks the denoiser
about the image itself. At each step k of the sampler the finished sample :math:`x_0`, as the denoiser knows it, is
noised to that step's level with noise :math:`\epsilon_k` that is the same for all samples, and the denoiser predicts it
back:

.. math::
    \ell_k = \log \frac1N \big\| \hat x_0(\alpha_k x_0 + \sigma_k \epsilon_k) - x_0 \big\|^2.

The sampler makes these predictions itself, with its prompt, its guidance and its own schedule, in one run whose states
are replaced. The profile :math:`\ell_1 \dots \ell_{K-1}` is averaged within d = 4 groups of neighboring levels; it is
the profile that tells, since a flat image is too hard at high noise and too easy in between.

The profile is compared with those of n fresh samples of the same prompt. With their mean m and sum of products S, and
an inverse-Wishart prior that counts as d samples, has their variances, and correlates groups like an autoregression of
order one, the next profile follows a Student distribution with n degrees of freedom:

.. math::
    \frac{n}{n + 1} \, (\ell - m)^\top A^{-1} (\ell - m) \, \frac{n}{d (n + d - 1)} \sim F(d, n), \qquad
    A = \frac{S + d \, \Psi}{n + d - 1}.

Its tail is the probability: two-sided, joint over the groups, and uniform for a fresh sample as far as profiles are
Gaussian (measured in docs/guards.md, with what the test sees and what it misses).

What it costs: 2 n runs per prompt once, then one run per sample; no gradient. A sampler of fewer than three steps has
no profile, and is not tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, ModelError, TapeError
from noiseward.noise.layout import Seeds
from noiseward.samplers.cost import NFE, count_calls, current_meter
from noiseward.samplers.guide import Guide, SamplerStep, StateReset
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import GuidedRun, run_guided

__all__ = ["ImageTest", "Reference"]

GROUPS = 4
FIRST_SEED = 2_000_000_000  # of the fresh samples; far from the seeds that people choose
LEAST = 0.02  # smallest spread of a log loss that is believed in


@dataclasses.dataclass(frozen=True)
class Reference:
    """The profiles of fresh samples of one prompt.

    Attributes:
        profiles: `(n, d)`, float64.
    """

    profiles: Tensor

    def probability(self, profiles: Tensor) -> Tensor:
        """How plausible profiles `(B, d)` are: `(B,)`, float64, below a for a share of about a of fresh samples.

        Example:
            >>> fresh = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            >>> p = Reference(fresh).probability(torch.tensor([[0.0] * 4, [9.0] * 4]))
            >>> bool(p[0] > 0.5), bool(p[1] < 0.01)
            (True, True)
        """
        n, d = self.profiles.shape
        mean = self.profiles.mean(0)
        centered = self.profiles - mean
        products = centered.T @ centered
        spread = (products.diagonal() / (n - 1)).sqrt().clamp(min=LEAST)
        correlation = products / (n - 1) / spread[:, None] / spread
        neighbors = correlation.diagonal(1).mean().clamp(0, 0.95)
        places = torch.arange(d, dtype=torch.float64)
        prior = neighbors ** (places[:, None] - places).abs() * spread[:, None] * spread
        scale = (products + d * prior) / (n + d - 1)
        off = profiles.double() - mean
        distance = (off * torch.linalg.solve(scale, off.T).T).sum(1)
        return _tail(n / (n + 1) * distance * n / (d * (n + d - 1)), d, n)


@final
class ImageTest:
    """The image test of a sampler.

    Arguments:
        sampler: one that announces its steps (`steps.py`).
        fresh: n, how many fresh samples of a prompt are compared with.
        chunk: rows per call of the sampler.

    Example:
        >>> from noiseward.samplers.steps import watch_state
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=6, dim=64).sampler()
        >>> noise = sampler.init(2, seed=0)
        >>> noise[1] += 1  # an image that is too bright
        >>> with watch_state() as watch:
        ...     sample = sampler(noise)
        >>> p = ImageTest(sampler)(noise, watch.state, None)
        >>> bool(p[0] > 0.01), bool(p[1] < 1e-4)
        (True, True)
    """

    def __init__(self, sampler: Sampler, *, fresh: int = 16, chunk: int = 16) -> None:
        if fresh < 4:
            raise ArgumentError(f"fresh must be >= 4 samples, got {fresh}")
        self.sampler, self.fresh, self.chunk = sampler, fresh, chunk
        self.trouble: str | None = None
        self._levels: list[tuple[float, float]] = []
        self._references: dict[str | None, Reference] = {}

    def __call__(self, noise: Tensor, state: Tensor | None, prompt: Prompt) -> Tensor:
        """How plausible finished samples are.

        Arguments:
            noise: `(B, *noise_shape)`, for what the sampler draws besides its states.
            state: the samples as the denoiser knows them, `(B, *X)` (`steps.watch_state`); None: the noise is sampled
                once more to find them.
            prompt: one for all rows, or one per row.

        Returns:
            `(B,)`, float64; NaN where there is no test, of which `trouble` says why.
        """
        with torch.no_grad():
            prompts = expand_prompts(prompt, noise.shape[0])
            texts = prompts or [None] * noise.shape[0]
            self._calibrate(texts)
            if self.trouble is not None:
                return torch.full((noise.shape[0],), torch.nan, dtype=torch.float64)
            state = self._run(noise, prompts, _Look()).state if state is None else state
            profiles = self._profiles(noise, state, prompts)
            each = zip(texts, profiles, strict=True)
            return torch.cat([self._references[text].probability(profile[None]) for text, profile in each])

    def _calibrate(self, prompts: Sequence[str | None]) -> None:
        """Make the references of prompts that have none. A row is counted the calls of one prompt, its own."""
        most = NFE()
        for prompt in dict.fromkeys(prompts):
            if self.trouble is None and prompt not in self._references:
                with count_calls(apart=True) as meter:
                    try:
                        self._references[prompt] = self._sample(prompt)
                    except (TapeError, ModelError) as error:
                        self.trouble = str(error)
                most = max(most, meter.nfe, key=lambda nfe: nfe.cost)
        current_meter().count(most)

    def _sample(self, prompt: str | None) -> Reference:
        """The reference of a prompt, from fresh samples."""
        noise = self.sampler.init(self.fresh, seed=FIRST_SEED)
        profiles = []
        for part in noise.split(self.chunk):
            prompts = None if prompt is None else [prompt] * len(part)
            look = _Look()
            with count_calls(apart=True) as meter:
                state = self._run(part, prompts, look).state
                self._levels = look.levels
                if len(self._levels) < 3:
                    raise TapeError(f"the image test needs a sampler of at least 3 steps, got {len(self._levels)}")
                profiles.append(self._profiles(part, state, prompts))
            current_meter().count(meter.nfe * len(part))
        return Reference(torch.cat(profiles))

    def _profiles(self, noise: Tensor, state: Tensor, prompts: list[str] | None) -> Tensor:
        """The profiles `(B, d)` of finished samples."""
        probe = _Probe(state, self._levels)
        self._run(noise, prompts, probe)
        groups = GROUPS if len(probe.losses) >= GROUPS else 2
        log = torch.stack(probe.losses, 1).double().cpu().clamp(min=1e-30).log()
        return torch.stack([group.mean(1) for group in log.tensor_split(groups, 1)], 1)

    def _run(self, noise: Tensor, prompts: list[str] | None, guide: Guide) -> GuidedRun:
        seeds = Seeds(tuple(range(noise.shape[0])))
        return run_guided(
            self.sampler, noise, prompts, guide, score=lambda sample: sample.new_zeros(len(sample)), seeds=seeds
        )


class _Look(Guide):
    """Notes the levels of the steps."""

    def __init__(self) -> None:
        self.levels: list[tuple[float, float]] = []

    def __call__(self, step: SamplerStep) -> None:
        self.levels.append((step.signal, step.sigma))


class _Probe(Guide):
    """Puts a finished sample, noised, in the place of each state, and notes how well it is predicted back."""

    def __init__(self, state: Tensor, levels: Sequence[tuple[float, float]]) -> None:
        self.state, self.levels = state, levels
        self.losses: list[Tensor] = []

    def __call__(self, step: SamplerStep) -> StateReset | None:
        if step.index > 0:  # the first state is the sampler's own
            off = step.clean.float() - self.state.float()
            self.losses.append(off.flatten(1).square().mean(1))
        if step.index + 1 >= len(self.levels):
            return None
        signal, sigma = self.levels[step.index + 1]
        generator = Seeds((0,)).at(step.index).generator(0, "image test")
        noise = torch.randn(self.state.shape[1:], generator=generator).to(self.state)
        return StateReset(signal * self.state + sigma * noise)


def _tail(value: Tensor, d: int, n: int) -> Tensor:
    r"""Pr[F(d, n) > v], d even: :math:`x^{n/2} \sum_{j<d/2} (n/2)_j (1 - x)^j / j!`, with x = n / (n + d v)."""
    x = n / (n + d * value)
    total, term = torch.zeros_like(x), torch.ones_like(x)
    for j in range(d // 2):
        total = total + term
        term = term * (n / 2 + j) / (j + 1) * (1 - x)
    return x ** (n / 2) * total
