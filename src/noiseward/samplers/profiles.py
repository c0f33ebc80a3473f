r"""Profiles of finished samples: how hard the denoiser finds them, by level of noise and by size of detail.

At each step k of the sampler the finished sample :math:`x_0`, as the denoiser knows it, is noised to that step's level
with noise :math:`\epsilon_k` that is the same for all samples, and the denoiser predicts it back. What it misses is the
residual

.. math::
    r_k = \hat x_0(\alpha_k x_0 + \sigma_k \epsilon_k) - x_0.

The sampler makes these predictions itself, with its prompt, its guidance and its own schedule, in one run whose states
are replaced. A run gives two profiles, both of logarithms:

* **levels**: the energy of the residual, averaged within d = 4 groups of neighboring levels. A flat image is too hard
  at high noise and too easy in between.
* **details**: the energy of the residual within each of four bands, from the finest detail to what is left of an image
  after halving it three times, averaged over the levels. A face without eyes lacks one kind of detail. Samples that are
  no images, or smaller than 8 x 8, have no such profile.

Where there is a prompt, a second run without it says what the prompt contributes: the same two profiles, less those.
They see a sample that lost what the prompt asks for, and vary less from sample to sample, for what makes an image hard
in general cancels.

Samplers of few steps have too few levels; the same model is asked at those of a sampler with more steps, where the
sampler can make one (`Sampler.with_steps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from noiseward.errors import ModelInUse, TapeError, is_out_of_memory
from noiseward.noise.layout import Seeds
from noiseward.samplers.entries import remove_text
from noiseward.samplers.guide import Guide, SamplerStep, StateReset
from noiseward.samplers.sampler import Sampler
from noiseward.samplers.steps import GuidedRun, run_guided

__all__ = ["Profile", "Profiler", "split_energy"]

Profile = tuple[Tensor, ...]
"""The profiles of one sample, each `(d,)`, float64."""

GROUPS = 4
LEVELS = 3  # the least that make a profile; the first is noise alone and counts for none
STEPS = 4  # of the sampler that is asked where one's own has fewer than `LEVELS`
HALVINGS, SMALLEST = 3, 8


@final
class Profiler:
    """Measures profiles of a sampler's samples.

    Arguments:
        sampler: one that announces its steps (`steps.py`).

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=6, dim=64).sampler()
        >>> profiler, noise = Profiler(sampler), sampler.init(2, seed=0)
        >>> state = profiler.sample(noise, None)
        >>> [[tuple(part.shape) for part in row] for row in profiler.measure(state, None)]
        [[(4,)], [(4,)]]
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._asked: Sampler | None = None
        self._own: list[tuple[float, float]] = []  # levels of the sampler, and of the one that is asked
        self._levels: list[tuple[float, float]] = []
        self._noise: Tensor | None = None
        self._contrasts = True  # whether the model can be asked without its prompt

    def sample(self, noise: Tensor, prompts: list[str] | None) -> Tensor:
        """The sampler's samples as its denoiser knows them, `(B, *X)`.

        Arguments:
            noise: `(B, *noise_shape)`.
            prompts: one per row, or None.
        """
        look = _Levels()
        state = _run(self._sampler, noise, prompts, look).state
        self._own = look.found
        return state

    def measure(self, state: Tensor, prompts: list[str] | None) -> list[Profile]:
        """The profiles of finished samples.

        Arguments:
            state: the samples as the denoiser knows them, `(B, *X)`.
            prompts: one per row, or None.

        Returns:
            per row its profiles and, where the row has a prompt, how those differ from the ones without.

        Raises:
            TapeError: the sampler has too few steps, and can make no sampler of more.
        """
        self._prepare(prompts)
        own = self._measure(state, prompts)
        asked = [row for row, text in enumerate(prompts or ()) if text]
        if not asked or not self._contrasts:
            return own
        try:
            empty = [remove_text(text) for text in prompts or ()]
            other = self._measure(state[asked], [empty[row] for row in asked])
        except Exception as error:  # a sampler of one's own may need its prompt, and raise anything
            if is_out_of_memory(error) or isinstance(error, ModelInUse):
                raise
            self._contrasts = False
            return own
        for row, without in zip(asked, other, strict=True):
            own[row] = (*own[row], *(one - two for one, two in zip(own[row], without, strict=True)))
        return own

    def _prepare(self, prompts: list[str] | None) -> None:
        """Find out the levels to ask at."""
        if self._asked is not None:
            return
        asked, levels = self._sampler, self._own or _find_levels(self._sampler, prompts)
        if len(levels) < LEVELS and (other := self._sampler.with_steps(STEPS)) is not None:
            asked, levels = other, _find_levels(other, prompts)
        if len(levels) < LEVELS:
            raise TapeError(f"the image test needs a sampler of at least {LEVELS} steps, got {len(levels)}")
        self._asked, self._levels, self._noise = asked, levels, asked.init(1, seed=0)

    def _measure(self, state: Tensor, prompts: list[str] | None) -> list[Profile]:
        assert self._asked is not None and self._noise is not None
        probe = _Probe(state, self._levels)
        _run(self._asked, self._noise.expand(len(state), *self._noise.shape[1:]), prompts, probe)
        energy = torch.stack(probe.energies, 1).double().cpu().clamp(min=1e-30)  # (B, K - 1, bands)
        groups = GROUPS if energy.shape[1] >= GROUPS else 2
        levels = energy.sum(2).log()
        profiles = [torch.stack([group.mean(1) for group in levels.tensor_split(groups, 1)], 1)]
        if energy.shape[2] > 1:
            profiles.append(energy.log().mean(1))
        return list(zip(*profiles, strict=True))


def split_energy(residual: Tensor) -> Tensor:
    """The mean square of each row, split among bands of detail, `(B, bands)`: one where there is no image to halve.

    Example:
        >>> split_energy(torch.ones(1, 3, 8, 8)), split_energy(torch.ones(1, 64))
        (tensor([[0., 0., 0., 1.]]), tensor([[1.]]))
    """
    if residual.ndim < 4 or min(residual.shape[-2:]) < SMALLEST:
        return residual.flatten(1).square().mean(1, keepdim=True)
    image, bands = residual.flatten(1, -3), []
    for _ in range(HALVINGS):
        half = avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
        height, width = image.shape[-2:]
        shown = half.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
        bands.append((image - shown).flatten(1).square().mean(1))
        image = half
    return torch.stack([*bands, image.flatten(1).square().mean(1)], 1)


def _find_levels(sampler: Sampler, prompts: list[str] | None) -> list[tuple[float, float]]:
    """The signal and sigma of each of a sampler's states."""
    levels = _Levels()
    _run(sampler, sampler.init(1, seed=0), prompts and prompts[:1], levels)
    return levels.found


def _run(sampler: Sampler, noise: Tensor, prompts: list[str] | None, guide: Guide) -> GuidedRun:
    seeds = Seeds(tuple(range(noise.shape[0])))
    return run_guided(sampler, noise, prompts, guide, score=lambda sample: sample.new_zeros(len(sample)), seeds=seeds)


class _Levels(Guide):
    """Notes the levels of the steps."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def __call__(self, step: SamplerStep) -> None:
        self.found.append((step.signal, step.sigma))


class _Probe(Guide):
    """Replaces each state by a finished sample, noised, and notes what the prediction misses."""

    def __init__(self, state: Tensor, levels: Sequence[tuple[float, float]]) -> None:
        self.state, self.levels = state, levels
        self.energies: list[Tensor] = []

    def __call__(self, step: SamplerStep) -> StateReset | None:
        if step.index > 0:  # the first state is the sampler's own
            self.energies.append(split_energy(step.clean.float() - self.state.float()))
        if step.index + 1 >= len(self.levels):
            return None
        signal, sigma = self.levels[step.index + 1]
        generator = Seeds((0,)).at(step.index).generator(0, "image test")
        noise = torch.randn(self.state.shape[1:], generator=generator).to(self.state)
        return StateReset(signal * self.state + sigma * noise)
