r"""Sampler steps: where a sampler can be observed and guided on its way from noise to sample.

Between two calls of its denoiser a sampler holds a noisy state :math:`x_t`, predicts the sample :math:`\hat x_0` it is
heading for, and steps on to :math:`x_{t-1} = m(x_t, o) + s z`, o being the denoiser's output and z this step's draw.
It announces that by calling :func:`announce`; the diffusers adapter does for every pipeline, and a sampler of your own
can. Without a guide, that costs nothing and changes nothing.

A **guide** (`optimizers/guidance/`) sees a :class:`SamplerStep` and answers with nothing, with a :class:`StateShift` c
of the next state, with a :class:`Redraw` of this step's draw z, or with a :class:`Resampling`, which replaces
rows by copies of others. It knows no pipeline.

*Everything a guide does can be expressed as other noise.* A shifted step is a step with another draw,

.. math:: m + s z + c = m + s z', \qquad z' = z + c / s,

and a row that replaces another has that row's draws up to there. So a guided run is a way to propose noise :math:`z'`:
the unguided sampler gives the guided sample for it. It can be scored, stored, replayed and tested like any other noise.
Where a step has no draw, s = 0 (the last step of many samplers, every step of an ODE), a shift cannot be expressed and
is left out.

:func:`run_guided` makes such a run. The weights s are found by differentiating the step with respect to the noise; no
scheduler is asked for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from noiseward.errors import GradientError, TapeError
from noiseward.noise.layout import Seeds
from noiseward.noise.tape import count_draws, off
from noiseward.samplers.guide import Guide, Redraw, Resampling, SamplerStep, StateReset, StateShift
from noiseward.samplers.independence import require_whole
from noiseward.samplers.precision import is_half, pull_back, pull_scores
from noiseward.samplers.sampler import Prompt, Sampler

__all__ = [
    "GuidedRun",
    "announce",
    "end_row",
    "is_guided",
    "is_watched",
    "run_guided",
    "show_state",
    "unobserved",
    "watch_state",
]

StepFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class GuidedRun:
    """The end of a guided run.

    Attributes:
        noise: the noise it amounts to, `(B, *noise_shape)`.
        sample: `(B, *X)`: up to rounding what the sampler gives for that noise.
        state: the sample as the denoiser knows it, before it is decoded: the last prediction.
        memory: what the guide kept to the end.
    """

    noise: Tensor
    sample: Tensor
    state: Tensor
    memory: dict[str, Tensor]


def run_guided(
    sampler: Sampler, noise: Tensor, prompt: Prompt, guide: Guide, *, score: Callable[[Tensor], Tensor], seeds: Seeds
) -> GuidedRun:
    """Run a sampler with a guide.

    Arguments:
        sampler: one that announces its steps: a `DiffusersSampler`, or a function that calls `announce`.
        noise: `(B, *noise_shape)`.
        prompt: one for all rows, or one per row.
        guide: what steers.
        score: the reward of samples, `(B, *X)` to `(B,)`.
        seeds: randomness of the guide, one seed per row.

    Raises:
        TapeError: the sampler announces nothing, or runs rows one at a time.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> class Look(Guide):
        ...     def __call__(self, step):
        ...         print(step.index, step.of, tuple(step.clean.shape))
        >>> sampler = GaussianModel(steps=2).sampler()
        >>> end = run_guided(sampler, sampler.init(3), None, Look(), score=torch.sum, seeds=Seeds((0, 1, 2)))
        0 2 (3, 2)
        1 2 (3, 2)
    """
    sampler.layout  # noqa: B018 (found out now: discovery is no part of the run)
    steering = _Steering(sampler, noise, guide, score, seeds)
    token = _STEERING.set(steering)
    try:
        with require_whole(), torch.set_grad_enabled(guide.gradient):
            sample = sampler(steering.variable, prompt)
    finally:
        _STEERING.reset(token)
    if steering.state is None:
        raise TapeError(
            "the sampler announced no step, so it cannot be guided: pass a diffusers pipeline, or call "
            "noiseward.samplers.steps.announce in a sampler of your own"
        )
    return GuidedRun(steering.noise, sample.detach(), steering.state, steering.memory)


def announce(
    step: StepFunction,
    output: Tensor,
    noisy: Tensor,
    *,
    of: int,
    time: float,
    signal: float,
    sigma: float,
    decode: Callable[[Tensor], Tensor] | None = None,
    reorder: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Make one step of a sampler, and let a guide steer it.

    Arguments:
        step: `step(output, noisy)` is the next state and the predicted sample, each `(B, *X)`; it draws this step's
            noise, and is called once.
        output: the denoiser's output for `noisy`.
        noisy: the state.
        of: how many steps there will be.
        time: t.
        signal, sigma: of the noisy state (see `SamplerStep`).
        decode: from predicted samples to samples; default: they are samples.
        reorder: puts whatever else the sampler keeps of its rows into a new order.

    Returns:
        the next state.
    """
    steering = _STEERING.get()
    if steering is None:
        after, clean = step(output, noisy)
        show_state(clean)
        return after
    if noisy.shape[0] != steering.noise.shape[0]:
        raise TapeError(
            f"expected a step with {steering.noise.shape[0]} rows, got one with {noisy.shape[0]}: the sampler runs "
            "rows one at a time, or several states at once, and cannot be guided; search instead"
        )
    gradient, index = steering.guide.gradient, steering.index
    out, x = output.detach().requires_grad_(gradient), noisy.detach().requires_grad_(gradient)
    after, clean = step(out, x)
    seen = SamplerStep(
        index=index, of=of, time=time, noisy=x, clean=clean, signal=signal, sigma=sigma,
        score=lambda one: steering.score(decode(one) if decode else one), seeds=steering.seeds.at(index),
        memory=steering.memory, pull=lambda scores: _pull(scores, out, x, output, noisy),
        slope=lambda: _slope(after, clean, out),
    )  # fmt: skip
    with off():  # a guide's own random numbers are no noise of the sampler
        answer = steering.guide(seen)
    steering.index, steering.state = index + 1, clean.detach()
    result = after
    if isinstance(answer, StateShift):
        result = after + steering.absorb(answer.by, after)
    elif isinstance(answer, Redraw):
        result = after + steering.redraw(answer.to, after)
    elif isinstance(answer, StateReset):
        result = answer.state.to(after.dtype)
    elif isinstance(answer, Resampling):
        result = after[answer.rows]
        steering.reorder(answer.rows)
        if reorder is not None:
            reorder(answer.rows)
    return result.detach().requires_grad_(gradient)


def is_guided() -> bool:
    """Whether a guide steers what is announced."""
    return _STEERING.get() is not None


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """For the body of a `with`, no guide steers and nothing is observed: what runs there is not part of the run."""
    steering, watch = _STEERING.set(None), _WATCH.set(None)
    try:
        yield
    finally:
        _STEERING.reset(steering)
        _WATCH.reset(watch)


class Watch:
    """What a sampler ended with, as its denoiser knows it.

    Attributes:
        last: the last prediction that was announced, of a batch or of a row alone.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self._rows: list[Tensor] = []

    def end_row(self) -> None:
        """Rows are sampled one at a time, and one is done."""
        if self.last is not None:
            self._rows.append(self.last)
            self.last = None

    @property
    def state(self) -> Tensor | None:
        """`(B, *X)`; None where the sampler announces nothing."""
        return torch.cat(self._rows) if self._rows else self.last


@contextlib.contextmanager
def watch_state() -> Iterator[Watch]:
    """Watch what a sampler that is run in the body of a `with` ends with; it costs no denoiser calls.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=2).sampler()
        >>> noise = sampler.init(3)
        >>> with watch_state() as watch:
        ...     sample = sampler(noise)
        >>> torch.allclose(watch.state, sample, atol=1e-5)  # here samples are states
        True
    """
    watch = Watch()
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def is_watched() -> bool:
    """Whether what the sampler ends with is watched."""
    return _WATCH.get() is not None


def show_state(clean: Tensor | None) -> None:
    """Show a step's prediction to the one who watches; None where it is not known."""
    if (watch := _WATCH.get()) is not None:
        watch.last = None if clean is None else clean.detach()


def end_row() -> None:
    """Say that one of several rows that are sampled alone is done."""
    if (watch := _WATCH.get()) is not None:
        watch.end_row()


class _Steering:
    """A guided run so far, and the noise it amounts to."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, guide: Guide, score: Callable[[Tensor], Tensor], seeds: Seeds
    ) -> None:
        self.layout, self.guide, self.score, self.seeds = sampler.layout, guide, score, seeds
        self.variable = noise.detach().clone().requires_grad_(guide.gradient)
        self.noise = noise.detach().clone()
        self.index = 0
        self.state: Tensor | None = None
        self.memory: dict[str, Tensor] = {}

    def absorb(self, by: Tensor, after: Tensor) -> Tensor:
        """Turn a shift into a change of this step's draw; returns what of it the draw can express."""
        found = self._find_draw(after)
        if found is None:
            return torch.zeros_like(after)
        k, weight = found
        weight = weight.reshape(by.shape)
        change = torch.where(weight != 0, by.detach() / torch.where(weight != 0, weight, 1.0), 0.0)
        return self._change(k, weight, change, after.dtype)

    def redraw(self, to: Callable[[Tensor], Tensor], after: Tensor) -> Tensor:
        """Replace this step's draw; returns how the next state changes."""
        found = self._find_draw(after)
        if found is None:
            return torch.zeros_like(after)
        k, weight = found
        draw = self.layout.split(self.noise)[k].reshape(after.shape)
        return self._change(k, weight.reshape(after.shape), to(draw).detach() - draw, after.dtype)

    def _find_draw(self, after: Tensor) -> tuple[int, Tensor] | None:
        """The draw that this step was made with, and its weight in the next state; None for a step without one."""
        found = torch.autograd.grad(after.sum(), self.variable, retain_graph=True, allow_unused=True)[0]
        if found is None or not found.any():
            return None
        weights = self.layout.split(found)
        k = max(range(len(weights)), key=lambda each: float(weights[each].norm()))
        return k, weights[k]

    def _change(self, k: int, weight: Tensor, change: Tensor, dtype: torch.dtype) -> Tensor:
        """Change a draw; returns how the next state changes, in the precision of the state."""
        part = self.layout.split(self.noise)[k]  # a view
        part.add_(change.reshape(part.shape).to(part.dtype))
        return weight.to(dtype) * change.to(dtype)

    def reorder(self, rows: Tensor) -> None:
        """Give rows that take another's place its draws up to here, and its memory."""
        for part in self.layout.split(self.noise)[: count_draws()]:  # views
            part.copy_(part[rows])
        for name, kept in self.memory.items():
            self.memory[name] = kept[rows]


_STEERING: ContextVar[_Steering | None] = ContextVar("the guided run", default=None)
_WATCH: ContextVar[Watch | None] = ContextVar("who watches the state", default=None)


def _pull(scores: Tensor, out: Tensor, x: Tensor, output: Tensor, noisy: Tensor) -> Tensor:
    if not scores.requires_grad:
        raise GradientError(
            "the reward has no gradient to the predicted sample: guide with FKSteering, which needs none, or search"
        )
    half = is_half(output, noisy)
    to_output, to_noisy = pull_scores(scores, (out, x), half=half)
    total = torch.zeros_like(noisy) if to_noisy is None else to_noisy
    if to_output is None:
        return total
    through = None
    if output.requires_grad and noisy.requires_grad:
        through = pull_back(output, noisy, to_output, half=half)
    if through is None:
        raise GradientError(
            "no gradient reaches the noisy state through the denoiser: the sampler runs it under torch.no_grad(), or "
            "gives it something else than it steps with"
        )
    return total + through


def _slope(after: Tensor, clean: Tensor, out: Tensor) -> Tensor:
    """Per row, how far `after` changes when `clean` does, both driven by the denoiser's output: `(B, 1, ...)`."""
    one, two = (
        torch.autograd.grad(each.sum(), out, retain_graph=True, allow_unused=True)[0] for each in (after, clean)
    )
    if one is None or two is None:
        return after.new_zeros(after.shape[0], *(1,) * (after.ndim - 1))
    one, two = (each.flatten(1).to(torch.promote_types(each.dtype, torch.float32)) for each in (one, two))
    ratio = (one * two).sum(1) / two.square().sum(1).clamp(min=torch.finfo(two.dtype).tiny)
    return ratio.view(-1, *(1,) * (after.ndim - 1)).to(after.dtype)
