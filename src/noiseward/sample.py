r"""Samplers: noise in, sample out.

A **sampler** M turns noise z and a prompt c into a sample :math:`x = M(z, c)`. Three laws hold for each:

* *function law*: the same noise gives the same sample, bit for bit on CPU;
* *row law*: row i of a batch depends on row i of the noise and of the prompts alone;
* *pair law* (see `optimize.py`): a reward is kept with the noise it was computed from.

:class:`FunctionSampler` makes a sampler of any code that draws its noise with torch, by wrapping a noise tape around
it. What it needs to know it finds out once, in a run and a half of the sampler ("discovery"): the draws in order,
whether each has the batch as its leading axis (else rows run one at a time), that a replay gives the recorded sample
again (else there is randomness the tape cannot see), and which draws are live: those for which the gradient of a random
linear functional of the sample exceeds 1e-6 of the largest.
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError, DrawMismatch, TapeError, UnseenRandomness
from noiseward.memory import attempt, kept
from noiseward.noise import Draw, Layout, Role
from noiseward.precision import is_half
from noiseward.recompute import NFE, Inside, Meter, Steps, constant, driven
from noiseward.tape import NoiseTape, record, replay

__all__ = ["FunctionSampler", "Prompt", "Sampler", "prompts"]

Prompt = str | Sequence[str] | None


class Sampler(abc.ABC):
    """Noise and a prompt in, one sample per row out.

    A concrete sampler gives `layout`, `nfe` and `__call__`; shapes and fresh noise follow.

    Attributes:
        lighter: the argument with which it takes less memory, if there is one; named when memory runs out.
    """

    lighter: str | None = None

    @property
    def half(self) -> bool:
        """Whether its gradient passes through float16, which holds too narrow a range of numbers (`precision.py`)."""
        return any(draw.dtype == torch.float16 for draw in self.layout)

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """The draws of one run, in order."""

    @property
    @abc.abstractmethod
    def nfe(self) -> NFE:
        """Denoiser calls made through this sampler so far, per row."""

    @abc.abstractmethod
    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        """The samples of some noise.

        Arguments:
            noise: `(B, *noise_shape)`, standard normal a priori.
            prompt: one for all rows, or one per row.

        Returns:
            `(B, *X)`; images are in [0, 1].
        """

    @property
    @final
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of one row of noise."""
        return self.layout.noise_shape

    @final
    def init(self, batch: int = 1, *, seed: int | Sequence[int] = 0) -> Tensor:
        """Fresh noise `(batch, *noise_shape)`.

        Arguments:
            batch: number of rows.
            seed: row i gets `seed + i`; or one seed per row.

        Row i of a diffusers pipeline's noise is the one of
        `pipe(..., generator=torch.Generator().manual_seed(seed + i))`.
        """
        if batch < 1:
            raise ArgumentError(f"a batch of {batch} rows given, at least 1 wanted")
        seeds = [seed + row for row in range(batch)] if isinstance(seed, int) else list(seed)
        if len(seeds) != batch:
            raise ArgumentError(f"{len(seeds)} seeds given for {batch} rows: give one seed per row, or one integer")
        return self.layout.fresh(seeds)


def prompts(prompt: Prompt, batch: int) -> list[str] | None:
    """One prompt per row, or None when there is no prompt."""
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else [prompt] * batch
    if len(prompt) != batch:
        raise ArgumentError(f"{len(prompt)} prompts given for {batch} rows of noise: give one prompt, or one per row")
    return list(prompt)


@final
class FunctionSampler(Sampler):
    """A sampler made of a function that draws its noise with torch.

    Arguments:
        fn: the sampler, told apart by the names of its parameters: `fn(batch, prompt)`, `fn(batch)`, `fn(prompt)` or
            `fn()`. `batch` is a number of rows, `prompt` a list with one string per row, or None. It returns samples
            `(batch, *X)`; without `batch`, one sample, with or without a leading axis of 1. A decorator such as
            `torch.no_grad()` on the whole of it takes the gradient away: pass the undecorated function.
        denoiser: the module it calls at each step, or several of them. They are frozen, taken off the tape, and their
            calls are counted in `nfe` and, if asked, recomputed. Without it, whole runs are counted instead.
        recompute: recompute the denoiser's activations instead of keeping them.

    Raises:
        TapeError: nothing was drawn with torch, or the tape does not see all of the randomness.

    Example:
        >>> import torch
        >>> sampler = FunctionSampler(lambda batch: torch.randn(batch, 2) + 0.1 * torch.randn(batch, 2))
        >>> noise = sampler.init(3, seed=0)
        >>> noise.shape, sampler(noise).shape
        (torch.Size([3, 2, 2]), torch.Size([3, 2]))
    """

    def __init__(
        self, fn: Callable[..., Tensor], denoiser: Module | Sequence[Module] | None = None, *, recompute: bool = False
    ) -> None:
        names = _names(fn)
        denoisers = [denoiser] if isinstance(denoiser, Module) else list(denoiser or [])
        if recompute and not denoisers:
            raise ArgumentError("recompute=True needs denoiser=, the module whose activations are recomputed")
        self._fn, self._names = fn, names
        self._denoisers = [module.requires_grad_(False) for module in denoisers]
        self._recompute, self._inside = recompute, None
        self._meter = Meter()
        self._found: _Found | None = None
        self.lighter = None if recompute or not denoisers else "recompute=True"

    def retaining(
        self, recompute: bool, *, inside: Inside | None = None, lighter: str | None = None
    ) -> FunctionSampler:
        """The same sampler, with the same bill, that keeps its activations otherwise.

        Arguments:
            recompute: recompute the denoiser's activations instead of keeping them.
            inside: what to enter around each call of a denoiser, and around each recomputation.
            lighter: see `Sampler`.
        """
        other = copy.copy(self)
        other._recompute, other._inside, other.lighter = recompute, inside, lighter
        return other

    def weighed(self, prompt: Prompt = None, modules: Iterable[Module] = ()) -> tuple[int, int]:
        """Bytes that a row's graph holds with all activations kept: the denoiser's in one sampler step, and the rest.

        Two samplings find out, not counted in the bill. The modules' weights are not counted either.
        """
        noise, steps = self.init(1).requires_grad_(), self.layout.steps
        keeping = self.retaining(False)
        keeping._meter = Meter()
        held = []
        for last in (0, 1):
            with torch.enable_grad(), constant(steps - last):
                held.append(kept(lambda: keeping(noise, prompt), modules))
        return held[1] - held[0], held[0]

    @property
    def layout(self) -> Layout:
        return self._discover([""]).layout

    @property
    def half(self) -> bool:
        weights = (weight for module in self._denoisers for weight in module.parameters())
        return any(draw.dtype == torch.float16 for draw in self.layout) or any(map(is_half, weights))

    @property
    def nfe(self) -> NFE:
        return self._meter.nfe

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        named = prompts(prompt, noise.shape[0])
        found = self._discover(named[:1] if named else None)
        found.layout.check(noise)
        if noise.shape[0] > 1 and not found.together:
            return self._one_by_one(found, noise, named)
        before = self._meter.nfe
        try:
            return self._replay(found, noise, named)
        except DrawMismatch:
            if noise.shape[0] == 1:
                raise
            self._meter.nfe = before  # finding this out is discovery, made once and not counted in any run
            found.together = False  # some draw's leading 1 was no batch axis: all rows share that draw
            return self._one_by_one(found, noise, named)

    def _one_by_one(self, found: _Found, noise: Tensor, prompt: list[str] | None) -> Tensor:
        samples, meter = [], self._meter
        try:
            for row in range(noise.shape[0]):
                samples.append(self._replay(found, noise[row : row + 1], prompt[row : row + 1] if prompt else None))
                self._meter = Meter()  # a row takes part in its own calls only: the first row's are counted
        finally:
            self._meter = meter
        return torch.cat(samples)

    def _replay(self, found: _Found, noise: Tensor, prompt: list[str] | None) -> Tensor:
        draws = found.layout.split(noise)
        if not found.leading:
            draws = [draw[0] for draw in draws]
        with replay(draws, [draw.name for draw in found.layout]) as tape:
            return self._run(tape, noise.shape[0], prompt)

    def _run(self, tape: NoiseTape, batch: int, prompt: list[str] | None, steps: Steps | None = None) -> Tensor:
        given = {"batch": batch, "prompt": prompt}
        with self._watched(tape, steps or Steps()):
            sample = self._fn(**{name: given[name] for name in self._names})
        if not isinstance(sample, Tensor):
            raise TapeError(f"the sampler returned {type(sample).__name__}: return its samples as one tensor (B, ...)")
        if "batch" not in self._names and sample.shape[:1] != (1,):
            sample = sample[None]
        if sample.shape[:1] != (batch,):
            raise TapeError(
                f"the sampler returned shape {tuple(sample.shape)} for a batch of {batch}: lead with the batch axis"
            )
        return sample if self._denoisers else self._meter.output(sample)

    @contextlib.contextmanager
    def _watched(self, tape: NoiseTape, steps: Steps) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in self._denoisers:
                stack.enter_context(
                    driven(
                        module,
                        tape=tape,
                        meter=self._meter,
                        recompute=self._recompute,
                        inside=self._inside,
                        steps=steps,
                    )
                )
            yield

    def _discover(self, prompt: list[str] | None) -> _Found:
        """Find out, once, what one row draws, and that its sample is a function of its draws."""
        if self._found is None:
            with constant(0):
                self._found = attempt(lambda: self._find(prompt), "when the sampler was first run", self.lighter)
        return self._found

    def _find(self, prompt: list[str] | None) -> _Found:
        drawn: list[Tensor] = []
        steps = Steps()
        with torch.no_grad(), record(0, into=drawn) as tape:
            recorded = self._run(tape, 1, prompt, steps)
        if len(drawn) == len(tape.others):
            raise TapeError("the sampler drew no Gaussian noise with torch: there is nothing to optimize")
        if not recorded.isfinite().all():
            raise TapeError(
                "the sampler's own sample is not finite: check the model and its precision before optimizing"
            )
        leading = all(draw.shape[:1] == (1,) for draw in drawn)
        names = _named(len(drawn), tape.others, steps.begun[0] if steps.begun else None)
        draws = tuple(
            Draw(
                name,
                tuple(draw.shape[1:] if leading else draw.shape),
                role,
                dtype=draw.dtype,
                after=bisect.bisect_right(steps.begun, number),
            )
            for number, (draw, (name, role)) in enumerate(zip(drawn, names, strict=True))
        )
        layout = Layout(draws, tape.device or torch.device("cpu"), len(steps.begun))
        found = _Found(layout, leading, together=leading and "batch" in self._names)
        rows = drawn if leading else [draw[None] for draw in drawn]
        noise = found.layout.join([row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]).to(
            found.layout.device
        )
        with torch.enable_grad():
            noise.requires_grad_(True)
            replayed = self._replay(found, noise, prompt)
            _same(recorded, replayed.detach())
            gradient = None
            if replayed.requires_grad:
                probe = torch.randn(replayed.shape, generator=torch.Generator().manual_seed(1)).to(replayed)
                (gradient,) = torch.autograd.grad(replayed, noise, probe, allow_unused=True)
            if gradient is not None and gradient.any():  # without a gradient anywhere, none of them is known to be dead
                sizes = torch.stack([part.norm() for part in found.layout.split(gradient)])
                alive = (sizes > 1e-6 * sizes.max()).tolist()
                draws = tuple(dataclasses.replace(draw, live=live) for draw, live in zip(draws, alive, strict=True))
                found.layout = dataclasses.replace(found.layout, draws=draws)
        return found


@dataclasses.dataclass
class _Found:
    """What discovery found out about a sampler."""

    layout: Layout
    leading: bool  # every draw has a leading axis of 1 for one row: the batch axis, presumably
    together: bool  # rows go in one call


def _names(fn: Callable[..., Tensor]) -> set[str]:
    """Which of `batch` and `prompt` a sampler function takes; whatever else it takes must have a default."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise ArgumentError(f"{fn!r} given: a function of `batch` and `prompt`, or of either or none, wanted") from None
    names = {parameter.name for parameter in parameters}
    unknown = [p.name for p in parameters if p.name not in ("batch", "prompt") and p.default is p.empty]
    if unknown:
        raise ArgumentError(
            f"the sampler function takes {', '.join(unknown)}: only `batch` and `prompt` can be filled in; "
            "bind the rest with functools.partial or a lambda"
        )
    return names & {"batch", "prompt"}


def _named(count: int, others: set[int], called: int | None) -> list[tuple[str, Role]]:
    """Name and role of each of `count` draws, `called` of them made before the denoiser's first call, if known."""
    own = [k for k in range(count) if k not in others]
    starts = [k for k in own if k < called] if called is not None else own[:1]
    roles: list[Role] = ["other" if k in others else "start" if k in starts else "step" for k in range(count)]
    names = []
    for k, role in enumerate(roles):
        alone = role != "step" and roles.count(role) == 1
        names.append(role if alone else f"{role} {roles[: k + 1].count(role)}")
    return list(zip(names, roles, strict=True))


def _same(recorded: Tensor, replayed: Tensor) -> None:
    """Raise `UnseenRandomness` unless a replay repeats its recording: exactly on CPU, to rounding elsewhere."""
    if recorded.shape == replayed.shape:
        gap = (recorded.double() - replayed.double()).abs().max()
        scale = recorded.double().abs().max()
        slack = 0.0 if recorded.device.type == "cpu" else 1e-3 if recorded.dtype == torch.float32 else 3e-2
        if gap <= slack * scale:
            return
        detail = f"differs by up to {gap:.2g} (largest value {scale:.2g})"
    else:
        detail = f"has shape {tuple(replayed.shape)}, not {tuple(recorded.shape)}"
    raise UnseenRandomness(
        f"a replay of the same draws {detail}: the sampler uses randomness the tape cannot see, such as numpy, "
        "torch.rand, another thread, or dropout (call .eval()); draw with torch.randn instead"
    )
