r"""The image test: does a finished sample look to the model's own denoiser like the samples that it makes?

Tests of noise (`noise/typicality.py`) see an image only through the noise that it came from. This one asks the denoiser
about the image itself: its profiles (`profiles.py`), each d numbers :math:`\ell`, are compared with those of n fresh
samples of the same prompt. With their mean m and sum of products S, and an inverse-Wishart prior that counts as d
samples, whose :math:`\Psi` has their variances and correlates neighbors like an autoregression of order one, the next
profile follows a Student distribution with n degrees of freedom:

.. math::
    \frac{n}{n + 1} \, (\ell - m)^\top A^{-1} (\ell - m) \, \frac{n}{d (n + d - 1)} \sim F(d, n), \qquad
    A = \frac{S + d \, \Psi}{n + d - 1}.

The tail of that distribution is P(image): two-sided, for the whole profile at once, and uniform for fresh samples if
their profiles are Gaussian (docs/guards.md measures that, and what the test sees and misses). If there are several
profiles, P(image) is the smallest of their probabilities times their number.

Cost: one run of the sampler without a gradient, or two if there is a prompt. Once per prompt there are also n fresh
samples and their profiles, which are cached (`reference_store.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, ModelError, ModelInUse, TapeError, is_out_of_memory
from noiseward.samplers.cost import count_calls
from noiseward.samplers.location import summarize_error
from noiseward.samplers.profiles import Profile, Profiler
from noiseward.samplers.reference_store import ReferenceStore
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts

__all__ = ["ImageTest", "Reference", "report_fresh"]

Result = TypeVar("Result")

FIRST_SEED = 2_000_000_000
LEAST = 0.02  # smallest spread of a log energy that is believed in


_REPORT: ContextVar[Callable[[int, int], None] | None] = ContextVar("what is known of fresh samples", default=None)


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
        profiles: of each kind, `(n, d)`, float64.
    """

    profiles: tuple[Tensor, ...]

    def probability(self, profile: Profile) -> Tensor:
        """How plausible a sample with these profiles is: below a for a share of about a of fresh samples.

        Example:
            >>> fresh = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            >>> reference = Reference((fresh,))
            >>> like, unlike = (reference.probability((torch.full((4,), off),)) for off in (0.0, 9.0))
            >>> bool(like > 0.5), bool(unlike < 0.01)
            (True, True)
        """
        kinds = list(zip(self.profiles, profile, strict=False))  # a model may stop to take an empty prompt
        each = torch.stack([compare(fresh, own[None])[0] for fresh, own in kinds])
        return (each.min() * len(each)).clamp(max=1)


def compare(fresh: Tensor, profiles: Tensor) -> Tensor:
    """The probabilities of profiles `(B, d)` after those of fresh samples `(n, d)`: `(B,)`, float64."""
    n, d = fresh.shape
    mean = fresh.mean(0)
    centered = fresh - mean
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
        store: where the profiles of fresh samples are kept for the next time; None: nowhere.
        seed: of the first fresh sample; the default is far from the seeds that people choose.

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

    def __init__(
        self,
        sampler: Sampler,
        *,
        fresh: int = 16,
        chunk: int = 4,
        store: ReferenceStore | None = None,
        seed: int = FIRST_SEED,
    ) -> None:
        if fresh < 4:
            raise ArgumentError(f"fresh must be >= 4 samples, got {fresh}")
        self.sampler, self.chunk, self.store = sampler, chunk, store
        self.seeds = range(seed, seed + fresh)
        self.trouble: str | None = None
        self.seconds = 0.0
        self._profiler = Profiler(sampler)
        self._references: dict[object, Reference] = {}

    def __call__(self, noise: Tensor, state: Tensor | None, prompt: Prompt) -> Tensor:
        """How plausible finished samples are.

        Arguments:
            noise: `(B, *noise_shape)`.
            state: the samples as the denoiser knows them, `(B, *X)` (`steps.watch_state`); None: the noise is sampled
                once more to find them.
            prompt: one for all rows, or one per row.

        Returns:
            `(B,)`, float64; NaN where there is no test.
        """
        prompts = expand_prompts(prompt, noise.shape[0])
        texts = prompts or [None] * noise.shape[0]
        with torch.no_grad():
            for text in {_key(text): text for text in texts}.values():
                self.calibrate(text)
            profiles = self._attempt(lambda: self._profile(noise, state, prompts))
        if profiles is None:
            return torch.full((noise.shape[0],), torch.nan, dtype=torch.float64)
        found = zip(texts, profiles, strict=True)
        return torch.stack([self._references[_key(text)].probability(profile) for text, profile in found])

    def calibrate(self, prompt: str | None) -> None:
        """Make the fresh samples of a prompt that images are compared with, unless it was done; calls of that are no
        part of a run, and are counted apart."""
        if _key(prompt) in self._references:
            return
        began = time.monotonic()
        with torch.no_grad(), count_calls(apart=True):
            profiles = self._attempt(lambda: self._recall(prompt) or self._sample(prompt))
        self.seconds += time.monotonic() - began
        if profiles is not None:
            self._references[_key(prompt)] = Reference(profiles)

    def _attempt(self, work: Callable[[], Result]) -> Result | None:
        """The result of some work, with a row at a time where more fail; None where there is no test."""
        while self.trouble is None:
            try:
                return work()
            except Exception as error:  # a sampler that cannot take so many rows may raise anything
                if isinstance(error, ModelInUse) or (self.chunk == 1 and is_out_of_memory(error)):
                    raise
                if self.chunk == 1:
                    ours = isinstance(error, ModelError | TapeError)
                    self.trouble = str(error) if ours else summarize_error(error)
                self.chunk = 1
        return None

    def _profile(self, noise: Tensor, state: Tensor | None, prompts: list[str] | None) -> list[Profile]:
        """The profiles of finished samples; a row takes part in its own calls only, so one row's are counted."""
        found: list[Profile] = []
        for part in torch.arange(len(noise)).split(1 if self.chunk == 1 else len(noise)):
            own = None if prompts is None else [prompts[row] for row in part.tolist()]
            with count_calls(apart=bool(found)):
                end = self._profiler.sample(noise[part], own) if state is None else state[part]
                found += self._profiler.measure(end, own)
        return found

    def _recall(self, prompt: str | None) -> tuple[Tensor, ...] | None:
        """The stored profiles of a prompt's fresh samples, if the first of them is still what the model makes."""
        known = None if self.store is None else self.store.read(self.sampler, prompt, seeds=self.seeds)
        if known is None:
            return None
        first = self._measure(self.seeds[:1], prompt)[0]
        same = len(first) == len(known) and all(map(_agree, first, known))
        return known if same else None

    def _sample(self, prompt: str | None) -> tuple[Tensor, ...]:
        """The profiles of a prompt's fresh samples, of each kind."""
        rows: list[Profile] = []
        for begin in range(0, len(self.seeds), self.chunk):
            rows += self._measure(self.seeds[begin : begin + self.chunk], prompt)
            if report := _REPORT.get():
                report(len(rows), len(self.seeds))
        found = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        if not all(part.isfinite().all() for part in found):
            raise TapeError("the image test needs a model whose predictions are finite, got others of fresh samples")
        if self.store is not None:
            self.store.write(self.sampler, prompt, found, seeds=self.seeds)
        return found

    def _measure(self, seeds: range, prompt: str | None) -> list[Profile]:
        """The profiles of fresh samples."""
        prompts = None if prompt is None else [prompt] * len(seeds)
        state = self._profiler.sample(self.sampler.init(len(seeds), seed=list(seeds)), prompts)
        return self._profiler.measure(state, prompts)


def _agree(own: Tensor, known: Tensor) -> bool:
    """Whether a profile is the first of some, up to rounding."""
    return own.shape == known[0].shape and torch.allclose(own, known[0], rtol=0, atol=LEAST / 2)


def _key(prompt: str | None) -> object:
    """What tells prompts apart: their text, and the row where arguments follow rows."""
    return prompt if prompt is None else (str(prompt), getattr(prompt, "places", None))


def _tail(value: Tensor, d: int, n: int) -> Tensor:
    r"""Pr[F(d, n) > v], d even: :math:`x^{n/2} \sum_{j<d/2} (n/2)_j (1 - x)^j / j!`, with x = n / (n + d v)."""
    x = n / (n + d * value)
    total, term = torch.zeros_like(x), torch.ones_like(x)
    for j in range(d // 2):
        total = total + term
        term = term * (n / 2 + j) / (j + 1) * (1 - x)
    return x ** (n / 2) * total
