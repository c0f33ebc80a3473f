"""Samplers made of functions: any code that draws its noise with torch, with a noise tape around it.

What :class:`FunctionSampler` needs to know about the function it finds out once (`discovery.py`). The row law is
tested: once per batch size a row is sampled alone as well (`independence.py`), and where rows depend on each other, or
the function cannot take so many, they are sampled one at a time.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import (
    ArgumentError,
    DrawMismatch,
    GradientError,
    ModelError,
    ModelInUse,
    NoisewardWarning,
    TapeError,
    is_out_of_memory,
)
from noiseward.noise.layout import Layout
from noiseward.noise.tape import NoiseTape, replay
from noiseward.samplers.cost import count_calls, current_meter
from noiseward.samplers.differentiable import Lift
from noiseward.samplers.discovery import Discovery, Findings
from noiseward.samplers.frozen import Frozen
from noiseward.samplers.independence import coarsest_eps, is_whole_required
from noiseward.samplers.location import summarize_error
from noiseward.samplers.memory import attempt, measure_kept
from noiseward.samplers.precision import is_half
from noiseward.samplers.recompute import (
    Inside,
    StepCounter,
    count_output,
    drive,
    hold_constant,
    is_partial,
    replace_forward,
)
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import end_row, unobserved
from noiseward.samplers.witness import Witness

__all__ = ["FunctionSampler"]


@final
class FunctionSampler(Sampler):
    """A sampler made of a function that draws its noise with torch.

    Arguments:
        fn: the sampler; the names of its parameters say which form it has: `fn(batch, prompt)`, `fn(batch)`,
            `fn(prompt)` or `fn()`. `batch` is a number of rows, `prompt` a list with one string per row, or None. It
            returns samples `(batch, *X)`; without `batch`, one sample, with or without a leading axis of 1. Where it
            runs under `torch.no_grad()`, pass `differentiable()(fn)`.
        denoiser: the module it calls at each step, or several of them. They are frozen for as long as this sampler
            lives, taken off the tape, counted (`cost.py`) and, if asked, recomputed. Without it, whole runs are
            counted instead.
        recompute: recompute the denoiser's activations instead of keeping them.
        name: in messages; default: the function's name.

    Raises:
        TapeError: nothing was drawn with torch, or the tape does not see all of the randomness.
        GradientError: a gradient is needed and there is none.

    Example:
        >>> import torch
        >>> sampler = FunctionSampler(lambda batch: torch.randn(batch, 2) + 0.1 * torch.randn(batch, 2))
        >>> noise = sampler.init(3, seed=0)
        >>> noise.shape, sampler(noise).shape
        (torch.Size([3, 2, 2]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
        denoiser: Module | Sequence[Module] | None = None,
        *,
        recompute: bool = False,
        name: str | None = None,
    ) -> None:
        names = _names(fn)
        denoisers = [denoiser] if isinstance(denoiser, Module) else list(denoiser or [])
        if recompute and not denoisers:
            raise ArgumentError("recompute=True needs denoiser=, the module whose activations are recomputed")
        self._fn, self._names = fn, names
        self.name = name or f"the sampler {getattr(fn, '__name__', type(fn).__name__)}"
        self._denoisers, self._frozen = denoisers, Frozen(denoisers)
        self._recompute, self._inside = recompute, None
        self._expected: list[str] | None = [""]
        self._found: Findings | None = None
        self.lighter = None if recompute or not denoisers else "recompute=True"

    def with_memory(
        self, recompute: bool, *, inside: Inside | None = None, lighter: str | None = None
    ) -> FunctionSampler:
        """The same sampler with another way of keeping activations.

        Arguments:
            recompute: recompute the denoiser's activations instead of keeping them.
            inside: what to enter around each call of a denoiser, and around each recomputation.
            lighter: see `Sampler`.
        """
        other = copy.copy(self)
        other._recompute, other._inside, other.lighter = recompute, inside, lighter
        if other._found is not None and other._found.trouble is not None and recompute != self._recompute:
            other._found = None  # there may be a gradient this way
        return other

    def measure_memory(self, prompt: Prompt = None, modules: Iterable[Module] = ()) -> tuple[int, int]:
        """Measure how many bytes a row's graph holds with all activations kept: the denoiser's in one sampler step, and
        the rest.

        Two runs find out, whose calls are counted apart. The modules' weights are left out. A sampler that has no
        gradient holds nothing.
        """
        self.expect(prompt)
        noise, steps = self.init(1).requires_grad_(), self.layout.steps
        if self._found is not None and self._found.trouble is not None:
            return 0, 0
        keeping = self.with_memory(False)
        held = []
        for last in (0, 1):
            with torch.enable_grad(), hold_constant(steps - last), count_calls(apart=True):
                held.append(measure_kept(lambda: keeping(noise, prompt), modules))
        return held[1] - held[0], held[0]

    def expect(self, prompt: Prompt) -> None:
        self._expected = [prompt] if isinstance(prompt, str) else list(prompt)[:1] if prompt else None

    @property
    def layout(self) -> Layout:
        try:
            return self._discover(self._expected).layout
        except (ModelError, TapeError) as error:
            if self._expected != [""] or "prompt" not in self._names:
                raise
            raise type(error)(f"{error} (with an empty prompt; call expect(prompt) first to try another)") from error

    @property
    def half(self) -> bool:
        weights = (weight for module in self._denoisers for weight in module.parameters())
        return any(draw.dtype == torch.float16 for draw in self.layout) or any(map(is_half, weights))

    @property
    def alone(self) -> str | None:
        return None if self._found is None else self._found.alone

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        named = expand_prompts(prompt, noise.shape[0])
        found = self._discover(named[:1] if named else None)
        found.layout.check(noise)
        if noise.requires_grad and torch.is_grad_enabled() and not is_partial():
            self._check_gradient(found, noise, named)
        if noise.shape[0] == 1:
            return self._replay(found, noise, named)
        return self._batched(found, noise, named) if found.together else self._one_by_one(found, noise, named)

    def _check_gradient(self, found: Findings, noise: Tensor, prompt: list[str] | None) -> None:
        """Raise `GradientError` where no gradient can be taken, naming what is in its way."""
        if found.trouble is not None:
            raise GradientError(self._discovery(prompt and prompt[:1]).explain(found, noise))
        if found.bias is not None and self.stand_in is None:  # otherwise it is meant, and the doctor says by what
            self._warn(found.bias)
            found.bias = None

    def _batched(self, found: Findings, noise: Tensor, prompt: list[str] | None) -> Tensor:
        """Sample all rows in one call; or one at a time from now on, where that fails or rows depend on each other."""
        outer, error = current_meter(), None
        try:
            with count_calls(apart=True) as meter:  # a trial that fails is discovery, and not counted
                samples = self._replay(found, noise, prompt)
                share = None if is_whole_required() else self._row_dependence(found, noise, prompt, samples)
            if share is None:
                meter.join(outer)
                return samples
            del samples
            by = f"by {share:.2g} of how far rows are apart" if share < math.inf else "and is not finite there"
            fault = f"a row depends on the others in its batch, {by}"
        except DrawMismatch:  # some draw's leading 1 was no batch axis: all rows share that draw
            fault = None
        except Exception as raised:  # a sampler that cannot take so many rows may raise anything
            if is_out_of_memory(raised) or isinstance(raised, ModelInUse) or is_whole_required():
                raise
            fault, error = f"it fails with a batch of {noise.shape[0]} ({summarize_error(raised)})", raised
        try:
            samples = self._one_by_one(found, noise, prompt)
        except Exception as raised:
            if error is None or is_out_of_memory(raised):
                raise
            raise error from None  # the batch is not to blame
        found.together, found.alone = False, fault
        if fault is not None:
            self._warn(f"{fault}; rows are sampled one at a time")
        return samples

    def _row_dependence(
        self, found: Findings, noise: Tensor, prompt: list[str] | None, samples: Tensor
    ) -> float | None:
        """How much a row depends on its batch, if one does."""
        weights = (next(module.parameters(), None) for module in self._denoisers)
        dtypes = [*(draw.dtype for draw in found.layout), samples.dtype, *(w.dtype for w in weights if w is not None)]
        return found.rows.dependence(
            noise,
            prompt,
            samples,
            sample=functools.partial(self._sample_apart, found),
            fresh=found.layout.draw_noise,
            eps=coarsest_eps(dtypes, found.layout.device),
        )

    def _sample_apart(self, found: Findings, noise: Tensor, prompt: list[str] | None) -> Tensor:
        """The samples of some noise, without a graph; no part of any run."""
        with torch.no_grad(), hold_constant(0), count_calls(apart=True), unobserved():
            return self._replay(found, noise, prompt)

    def _one_by_one(self, found: Findings, noise: Tensor, prompt: list[str] | None) -> Tensor:
        samples = []
        for row in range(noise.shape[0]):
            with count_calls(apart=row > 0):  # a row takes part in its own calls only: the first row's are counted
                samples.append(self._replay(found, noise[row : row + 1], prompt[row : row + 1] if prompt else None))
                end_row()
        return torch.cat(samples)

    def _replay(self, found: Findings, noise: Tensor, prompt: list[str] | None) -> Tensor:
        draws = found.layout.split(noise)
        if not found.leading:
            draws = [draw[0] for draw in draws]
        with replay(draws, [draw.name for draw in found.layout]) as tape:
            return self._run(tape, noise.shape[0], prompt)

    def _run(self, tape: NoiseTape, batch: int, prompt: list[str] | None, steps: StepCounter | None = None) -> Tensor:
        given = {"batch": batch, "prompt": None if prompt is None else [*prompt]}  # some functions edit their list
        with self._intercept(tape, steps or StepCounter()):
            sample = tape.resolve(self._fn(**{name: given[name] for name in self._names}))
        if not isinstance(sample, Tensor):
            raise TapeError(f"the sampler returned {type(sample).__name__}: return its samples as one tensor (B, ...)")
        if "batch" not in self._names and sample.shape[:1] != (1,):
            sample = sample[None]
        if sample.shape[:1] != (batch,):
            raise TapeError(
                f"the sampler returned shape {tuple(sample.shape)} for a batch of {batch}: lead with the batch axis"
            )
        return sample if self._denoisers else count_output(sample, current_meter())

    @contextlib.contextmanager
    def _intercept(self, tape: NoiseTape, steps: StepCounter) -> Iterator[None]:
        lift, frozen, given = Lift(), self._frozen, self._inside

        @contextlib.contextmanager
        def inside(module: Module) -> Iterator[None]:
            with lift.call(), frozen.call(), given(module) if given else contextlib.nullcontext():
                yield

        how: dict[str, Any] = {"tape": tape, "meter": current_meter(), "recompute": self._recompute, "steps": steps}
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, lift, "over", True)
            for module in self._denoisers:
                stack.enter_context(drive(module, inside=inside, **how))
            yield

    @torch.inference_mode(False)  # what is found out has to last, and to have a gradient
    def _discover(self, prompt: list[str] | None) -> Findings:
        """Find out about the function, once."""
        if self._found is None:
            self._frozen.hold()
            try:
                with hold_constant(0), count_calls(apart=True):
                    found = attempt(self._discovery(prompt).find, "when the sampler was first run", self.lighter)
            except BaseException:
                self._frozen.release()
                raise
            self._found = found
        return self._found

    def _discovery(self, prompt: list[str] | None) -> Discovery:
        """A discovery with one row of a prompt."""

        def run(tape: NoiseTape, witness: Witness | None) -> tuple[Tensor, list[int]]:
            steps = StepCounter()
            with contextlib.ExitStack() as stack:
                if witness is not None:
                    for module in self._denoisers:
                        stack.enter_context(replace_forward(module, witness.around(module, module.forward)))
                return self._run(tape, 1, prompt, steps), steps.begun

        frozen, batched = self._frozen, "batch" in self._names
        return Discovery(run, name=self.name, batched=batched, narrow=frozen.narrow, widen=frozen.widen)

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self.name}: {text}", NoisewardWarning, stacklevel=4)


def _names(fn: Callable[..., Tensor]) -> set[str]:
    """Which of `batch` and `prompt` a sampler function takes; other parameters must have a default."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise ArgumentError(f"expected a function of `batch` and `prompt`, or of either or none, got {fn!r}") from None
    names = {parameter.name for parameter in parameters}
    unknown = [p.name for p in parameters if p.name not in ("batch", "prompt") and p.default is p.empty]
    if unknown:
        raise ArgumentError(
            f"the sampler function takes {', '.join(unknown)}: only `batch` and `prompt` can be filled in; "
            "bind the rest with functools.partial or a lambda"
        )
    return names & {"batch", "prompt"}
