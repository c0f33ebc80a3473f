r"""The image test: does a finished sample look to the model's own denoiser like the samples that it makes?

Tests of noise (`noise/typicality.py`) see an image only through the noise that it came from. This one asks the denoiser
about the image itself. At each step k of the sampler the finished sample :math:`x_0`, as the denoiser knows it, is
noised to that step's level with noise :math:`\epsilon_k` that is the same for all samples, and the denoiser predicts it
back:

.. math::
    \ell_k = \log \frac1N \big\| \hat x_0(\alpha_k x_0 + \sigma_k \epsilon_k) - x_0 \big\|^2.

The sampler makes these predictions itself, with its prompt, its guidance and its own schedule, in one run whose states
are replaced. The profile :math:`\ell_1 \dots \ell_{K-1}` is averaged within d = 4 groups of neighboring levels; it is
the profile that tells, since a flat image is too hard at high noise and too easy in between.

Where there is a prompt, a second profile says what it contributes: :math:`\ell` less what it is with an empty prompt.
It sees a sample that lost what the prompt asks for, and varies less from sample to sample, for what makes an image hard
in general cancels.

Each profile is compared with those of n fresh samples of the same prompt. With their mean m and sum of products S, and
an inverse-Wishart prior that counts as d samples, has their variances, and correlates groups like an autoregression of
order one, the next profile follows a Student distribution with n degrees of freedom:

.. math::
    \frac{n}{n + 1} \, (\ell - m)^\top A^{-1} (\ell - m) \, \frac{n}{d (n + d - 1)} \sim F(d, n), \qquad
    A = \frac{S + d \, \Psi}{n + d - 1}.

Its tail is the probability: two-sided, joint over the groups, and uniform for a fresh sample as far as profiles are
Gaussian (measured in docs/guards.md, with what the test sees and what it misses). Of two, the smaller counts, doubled.

What it costs: a run per profile, without a gradient; and once per prompt, apart from any run, n samples and their
profiles. A sampler of fewer than three steps has no profile, and is not tested.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, ModelError, TapeError, is_out_of_memory
from noiseward.noise.layout import Seeds
from noiseward.samplers.cost import count_calls
from noiseward.samplers.entries import remove_text
from noiseward.samplers.guide import Guide, SamplerStep, StateReset
from noiseward.samplers.location import summarize_error
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import GuidedRun, run_guided

__all__ = ["ImageTest", "Reference", "report_fresh"]

GROUPS = 4
FIRST_SEED = 2_000_000_000  # of the fresh samples; far from the seeds that people choose
LEAST = 0.02  # smallest spread of a log loss that is believed in


_REPORT: ContextVar[Callable[[int, int], None] | None] = ContextVar("what is told of fresh samples", default=None)


@contextlib.contextmanager
def report_fresh(report: Callable[[int, int], None]) -> Iterator[None]:
    """For the body of a `with`, call a function with the number of fresh samples that are made, and to be made."""
    token = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(token)


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
        finite = profiles.isfinite().all(1)
        off = torch.where(finite[:, None], profiles.double() - mean, 0.0)
        distance = (off * torch.linalg.solve(scale, off.T).T).sum(1)
        tail = _tail(n / (n + 1) * distance * n / (d * (n + d - 1)), d, n)
        return torch.where(finite, tail, 0.0)  # fresh samples are predicted by finite numbers


@final
class ImageTest:
    """The image test of a sampler.

    Arguments:
        sampler: one that announces its steps (`steps.py`).
        fresh: n, how many fresh samples of a prompt are compared with.
        chunk: of these, how many are made per call of the sampler; one where that fails, and then images are tested one
            at a time, too.

    Attributes:
        trouble: why there is no test, once that is known; None where there is one.
        seconds: wall time that fresh samples took.

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

    def __init__(self, sampler: Sampler, *, fresh: int = 16, chunk: int = 4) -> None:
        if fresh < 4:
            raise ArgumentError(f"fresh must be >= 4 samples, got {fresh}")
        self.sampler, self.fresh, self.chunk = sampler, fresh, chunk
        self.trouble: str | None = None
        self.seconds = 0.0
        self._levels: list[tuple[float, float]] = []
        self._references: dict[object, list[Reference]] = {}
        self._contrasts = True  # whether the model can be asked without its prompt

    def __call__(self, noise: Tensor, state: Tensor | None, prompt: Prompt) -> Tensor:
        """How plausible finished samples are.

        Arguments:
            noise: `(B, *noise_shape)`, for what the sampler draws besides its states.
            state: the samples as the denoiser knows them, `(B, *X)` (`steps.watch_state`); None: the noise is sampled
                once more to find them.
            prompt: one for all rows, or one per row.

        Returns:
            `(B,)`, float64; NaN where there is no test.
        """
        count = noise.shape[0]
        with torch.no_grad():
            prompts = expand_prompts(prompt, count)
            texts = prompts or [None] * count
            for text in {_key(text): text for text in texts}.values():
                self.calibrate(text)
            if self.trouble is not None:
                return torch.full((count,), torch.nan, dtype=torch.float64)
            found: list[Tensor] = []
            for part in torch.arange(count).split(1 if self.chunk == 1 else count):
                own = None if prompts is None else [prompts[row] for row in part.tolist()]
                with count_calls(apart=bool(found)):  # a row takes part in its own calls only: the first row's
                    end = self._run(noise[part], own, _Look()).state if state is None else state[part]
                    profiles = self._profiles(noise[part], end, own)
                found += [self._probability(texts[k], *row) for k, row in zip(part.tolist(), profiles, strict=True)]
            return torch.stack(found)

    def calibrate(self, prompt: str | None) -> None:
        """Make the fresh samples of a prompt that images are compared with, unless it was done; calls of that are no
        part of a run, and are counted apart."""
        if self.trouble is not None or _key(prompt) in self._references:
            return
        began = time.monotonic()
        try:
            with torch.no_grad(), count_calls(apart=True):
                self._references[_key(prompt)] = self._sample(prompt)
            return
        except Exception as error:  # a sampler that cannot take so many rows may raise anything
            if self.chunk == 1 and is_out_of_memory(error):
                raise
            if self.chunk == 1:
                ours = isinstance(error, ModelError | TapeError)
                self.trouble = str(error) if ours else summarize_error(error)
            self.chunk = 1
        finally:
            self.seconds += time.monotonic() - began
        self.calibrate(prompt)

    def _sample(self, prompt: str | None) -> list[Reference]:
        """The references of a prompt: of profiles and, where there is a prompt, of what it contributes."""
        rows = []
        for seeds in torch.arange(FIRST_SEED, FIRST_SEED + self.fresh).split(self.chunk):
            noise = self.sampler.init(len(seeds), seed=seeds.tolist())
            prompts, look = None if prompt is None else [prompt] * len(noise), _Look()
            state = self._run(noise, prompts, look).state
            self._levels = look.levels
            if len(self._levels) < 3:
                raise TapeError(f"the image test needs a sampler of at least 3 steps, got {len(self._levels)}")
            rows += self._profiles(noise, state, prompts)
            if report := _REPORT.get():
                report(len(rows), self.fresh)
        references = [Reference(torch.stack(parts)) for parts in zip(*rows, strict=True)]
        if not all(reference.profiles.isfinite().all() for reference in references):
            raise TapeError("the image test needs a model whose predictions are finite, got others of fresh samples")
        return references

    def _probability(self, prompt: str | None, *profiles: Tensor) -> Tensor:
        """The joint probability of a row's profiles: the smallest, times their number."""
        pairs = zip(self._references[_key(prompt)], profiles, strict=False)  # one may be without a contrast
        each = torch.cat([reference.probability(profile[None]) for reference, profile in pairs])
        return (each.min() * len(each)).clamp(max=1)

    def _profiles(self, noise: Tensor, state: Tensor, prompts: list[str] | None) -> list[tuple[Tensor, ...]]:
        """Per row its profile `(d,)` and, where the row has a prompt, how that differs from the one without."""
        own = self._profile(noise, state, prompts)
        found: list[tuple[Tensor, ...]] = [(profile,) for profile in own]
        asked = [row for row, text in enumerate(prompts or ()) if text]
        if not asked or not self._contrasts:
            return found
        try:
            empty = [remove_text(text) for text in prompts or ()]
            other = self._profile(noise[asked], state[asked], [empty[row] for row in asked])
        except Exception as error:  # a sampler of one's own may need its prompt, and raise anything
            if is_out_of_memory(error):
                raise
            self._contrasts = False
            return found
        for row, profile in zip(asked, other, strict=True):
            found[row] = (own[row], own[row] - profile)
        return found

    def _profile(self, noise: Tensor, state: Tensor, prompts: list[str] | None) -> Tensor:
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


def _key(prompt: str | None) -> object:
    """What tells prompts apart: their text, and the row where arguments follow rows."""
    return prompt if prompt is None else (str(prompt), getattr(prompt, "places", None))


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
