r"""Discovery: what there is to know about a sampler, found out once, on one row.

A run under a recording tape and a replay of it with its graph show

* the draws in order, and whether each has the batch as its leading axis;
* that a replay gives the recorded sample again; else there is something the tape cannot see, which two more replays
  find and name (`witness.py`);
* which draws are *live*: those for which the gradient of a random linear functional :math:`\langle p, M(z) \rangle` of
  the sample exceeds 1e-6 of the largest.

A gradient can be zero although the sample depends on the draw: something cut the graph. So draws without a gradient are
changed once, and where the sample changes they are live and a gradient is refused. Where a graph was cut anywhere,
:math:`\langle \nabla, u \rangle` is compared with a finite difference along a few random directions u.

A search needs no gradient. Where none can be taken, all draws count as live, with a warning, and the reason is found
out when a gradient is needed (`trouble.py`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import re
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ModelInUse, NoisewardWarning, TapeError, UnseenRandomness, is_out_of_memory
from noiseward.noise.layout import Layout, name_draws
from noiseward.noise.tape import NoiseTape, record, replay
from noiseward.samplers.independence import Comparison
from noiseward.samplers.location import is_library_file
from noiseward.samplers.trouble import Trouble, describe_cut, describe_fault
from noiseward.samplers.witness import Everywhere, Witness, explain_randomness, watch_generators

__all__ = ["Discovery", "Findings", "report_calls"]

Report = Callable[[int | None], None]
Run = Callable[[NoiseTape, Witness | None], tuple[Tensor, list[int]]]

DEAD = 1e-6  # of the largest gradient
CHANGED = 1e-4  # of the largest value, that a sample changes by when a draw that it depends on changes
OFF = 0.1  # of its norm, that a gradient is off a finite difference by when it is wrong

_REPORT = contextvars.ContextVar[Report | None]("what is called with the number of denoiser calls", default=None)


@contextlib.contextmanager
def report_calls(report: Report) -> Iterator[None]:
    """For the body of a `with`, call a function with the number of denoiser calls discovery made; None at its end."""
    token = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(token)


@dataclasses.dataclass
class Findings:
    """What is known about a sampler.

    Attributes:
        layout: its draws.
        leading: whether every draw has a leading axis of 1 for one row: the batch axis, presumably.
        together: whether rows go in one call.
        alone: why they do not, where that is a fault of the sampler.
        rows: compares a row with itself alone.
        trouble: why no gradient can be taken; None where one can.
        bias: a warning for when a gradient is taken.
    """

    layout: Layout
    leading: bool
    together: bool
    alone: str | None = None
    rows: Comparison = dataclasses.field(default_factory=Comparison)
    trouble: Trouble | None = None
    bias: str | None = None


@final
class Discovery:
    """Runs a sampler to find out about it.

    Arguments:
        run: one row of the sampler under a tape, watched: its sample, and how many draws were asked for before each of
            its steps.
        name: of the sampler, in messages.
        batched: whether it takes a number of rows.
        narrow: freezes weights within calls alone, for models with a checkpoint function of their own; returns whether
            that is a change.
        widen: freezes them as before.
    """

    def __init__(
        self, run: Run, *, name: str, batched: bool, narrow: Callable[[], bool], widen: Callable[[], None]
    ) -> None:
        self._run, self._name, self._batched = run, name, batched
        self._narrow, self._widen = narrow, widen
        self._report = _REPORT.get()
        self._witness = Witness(self._report)

    def find(self) -> Findings:
        """Find out all of it."""
        if self._report is not None:
            self._report(0)
        try:
            return self._find()
        finally:
            if self._report is not None:
                self._report(None)

    def _find(self) -> Findings:
        drawn: list[Tensor] = []
        with torch.no_grad(), record(0, into=drawn) as tape, self._witness.reading():
            tape.watch = self._witness.see
            recorded, begun = self._run(tape, self._witness)
        if len(drawn) == len(tape.others):
            arrays = "".join(f" (it converts a numpy array at {one.where})" for one in self._witness.arrays[:1])
            raise TapeError(f"the sampler drew no Gaussian noise with torch{arrays}: there is nothing to optimize")
        if not recorded.isfinite().all():
            raise TapeError(
                "the sampler's own sample is not finite: check the model and its precision before optimizing"
            )
        leading = all(draw.shape[:1] == (1,) for draw in drawn)
        shapes = [tuple(draw.shape[1:] if leading else draw.shape) for draw in drawn]
        draws = name_draws(
            shapes, [draw.dtype for draw in drawn], others=tape.others, begun=begun, from_generator=tape.from_generator
        )
        layout = Layout(draws, tape.device or torch.device("cpu"), len(begun))
        found = Findings(layout, leading, together=leading and self._batched)
        rows = drawn if leading else [draw[None] for draw in drawn]
        noise = layout.join([row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]).to(layout.device)
        try:
            replayed, gradient = self._replay_and_pull(found, noise, recorded)
        except (TapeError, ModelInUse):
            raise
        except Exception as error:  # whatever torch or a model raises where it cannot be differentiated
            if is_out_of_memory(error):
                raise
            self._check_replay(found, noise, recorded, self._sample(found, noise))
            found.trouble = describe_fault(error)
            self._warn(f"{found.trouble.says}; all its draws count as live, and only a search can change them")
        else:
            self._find_live(found, noise, replayed, gradient)
        self._warn_of_arrays([*(draw.numel() for draw in drawn), recorded.numel()])
        return found

    def explain(self, found: Findings, noise: Tensor) -> str:
        """Explain in one line why no gradient can be taken; the sampler is run once more to see where."""
        trouble = found.trouble or Trouble("other", "")
        if trouble.kind == "cut":
            remedy = describe_cut(self._watch_everywhere(found, noise))
            return f"{self._name}: {trouble.says}: {remedy}; or take ZerothOrder or a search, which need none"
        place = self._locate(found, noise) if trouble.kind == "fails" else None
        called = f" (from the call at {place})" if place else ""
        return f"{self._name}: {trouble.says}{called}; take ZerothOrder or a search, which need no gradient"

    def _sample(
        self,
        found: Findings,
        noise: Tensor,
        witness: Witness | None = None,
        *,
        everywhere: bool = False,
        graph: bool = False,
    ) -> Tensor:
        """The sample of one row of noise."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(graph))
            if everywhere and witness is not None:
                stack.enter_context(witness.reading())
                stack.enter_context(Everywhere(witness))
            draws = found.layout.split(noise)
            given = draws if found.leading else [draw[0] for draw in draws]
            tape = stack.enter_context(replay(given, [draw.name for draw in found.layout]))
            if witness is not None and not everywhere:
                tape.watch = witness.see
            return self._run(tape, witness)[0]

    def _watch_everywhere(self, found: Findings, noise: Tensor) -> Witness:
        """Watch a run, in the denoiser as well."""
        look, variable = Witness(), noise.detach()[:1].clone().requires_grad_()
        with contextlib.suppress(Exception):
            self._sample(found, variable, look, everywhere=True, graph=True)
        return look

    def _replay_and_pull(self, found: Findings, noise: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor | None]:
        """The replayed sample, and the gradient of a random functional of it, if it has any."""
        noise = noise.requires_grad_(True)
        replayed = self._sample(found, noise, self._witness, graph=True)
        self._check_replay(found, noise, recorded, replayed.detach())
        if not replayed.requires_grad:
            return replayed, None
        try:
            return replayed.detach(), _gradient(replayed, noise)
        except RuntimeError as error:
            if is_out_of_memory(error) or not self._narrow():
                raise
        try:  # some checkpoint functions want the gradient of weights
            replayed = self._sample(found, noise, self._witness, graph=True)
            return replayed.detach(), _gradient(replayed, noise)
        except BaseException:
            self._widen()
            raise

    def _find_live(self, found: Findings, noise: Tensor, replayed: Tensor, gradient: Tensor | None) -> None:
        """Find out which draws are live, and whether the gradient can be relied on."""
        layout, names = found.layout, [draw.name for draw in found.layout]
        if gradient is None or not gradient.any():  # without a gradient anywhere, none of them is known to be dead
            every = [True] * len(layout)
            if not any(self._depends(found, noise, replayed, every, seed) for seed in (1, 2, 3)):
                raise TapeError(f"the sample depends on no draw ({_join(names)}): there is nothing to optimize")
            if gradient is None:  # a zero one may be right: of what rounds, or is flat
                found.trouble = Trouble("cut", "no gradient reaches the sample")
            return
        sizes = torch.stack([part.norm() for part in layout.split(gradient)])
        finite = sizes.isfinite()
        alive = (sizes > DEAD * sizes[finite].max() if finite.any() else finite) | ~finite
        if not finite.all():
            broken = _join([name for name, fine in zip(names, finite.tolist(), strict=True) if not fine])
            self._warn(f"its gradient is not finite at {broken}: these draws count as live")
            if all(draw.dtype in (torch.float32, torch.float64) for draw in layout):
                found.trouble = Trouble("other", f"its gradient is not finite at {broken}")
        last = [bool(layout.steps) and draw.after == layout.steps for draw in layout]  # often multiplied by zero
        suspects = [not live and not late for live, late in zip(alive.tolist(), last, strict=True)]
        if any(suspects) and self._depends(found, noise, replayed, suspects):
            alive |= torch.tensor(suspects, device=alive.device)
            if self._witness.cuts or self._watch_everywhere(found, noise).cuts:  # else it may be right: of a sign, say
                cut = _join([name for name, suspect in zip(names, suspects, strict=True) if suspect])
                found.trouble = Trouble("cut", f"no gradient reaches the sample from {cut}, though it depends on it")
        elif self._witness.cuts and finite.all():
            off = self._gradient_error(found, noise, gradient)
            if off is not None:
                found.bias = f"its gradient is {off:.0%} off finite differences: {describe_cut(self._witness)}"
        draws = (dataclasses.replace(draw, live=live) for draw, live in zip(layout, alive.tolist(), strict=True))
        found.layout = dataclasses.replace(layout, draws=tuple(draws))
        if not any(draw.movable for draw in found.layout):
            why = [f"{draw.name} ({'made aside' if draw.live else 'without effect'})" for draw in found.layout]
            raise TapeError(f"no draw of the sampler may change: {_join(why)}: there is nothing to optimize")

    def _check_replay(self, found: Findings, noise: Tensor, recorded: Tensor, replayed: Tensor) -> None:
        """Raise `UnseenRandomness` unless a replay repeats its recording: exactly on CPU, to rounding elsewhere."""
        detail = _difference(recorded, replayed)
        if detail is None:
            return
        looks, samples = (Witness(), Witness()), []
        with watch_generators() as advanced, contextlib.suppress(Exception):
            samples = [self._sample(found, noise.detach(), look, everywhere=True) for look in looks]
        seen = explain_randomness(*looks, advanced)
        if seen is not None:
            raise UnseenRandomness(f"a replay of the same draws {detail}: randomness the tape cannot see, {seen}")
        if len(samples) == 2 and _difference(*samples) is None:
            raise UnseenRandomness(
                f"a replay of the same draws {detail}, and later ones repeat it: the sampler keeps something of its "
                "first run, such as a cache or a list it changes; let each call begin from the same state"
            )
        raise UnseenRandomness(
            f"a replay of the same draws {detail}, and no call was seen to be random: the sampler keeps something from "
            "call to call, such as a counter, or has randomness the tape cannot see, in another thread or a numpy "
            "generator of its own"
        )

    def _depends(self, found: Findings, noise: Tensor, sample: Tensor, which: Sequence[bool], seed: int = 1) -> bool:
        """Whether the sample changes with some of the draws."""
        change = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise)
        changed = self._sample(found, noise.detach() + found.layout.keep(which, change)).double()
        if changed.shape != sample.shape:
            return True
        slack, sample = max(CHANGED, 10 * _slack(sample)), sample.double()
        return bool((changed - sample).abs().max() > slack * sample.abs().max())

    def _gradient_error(self, found: Findings, noise: Tensor, gradient: Tensor) -> float | None:
        """How far the gradient is off finite differences, as a share of its norm; None where that is not certain."""
        eps = max(torch.finfo(draw.dtype).eps for draw in found.layout)
        width, scale = eps ** (1 / 3), gradient.double().norm().item()
        if width > 0.05:
            return None
        at, gaps, doubts = noise.detach(), [], []
        for seed in (1, 2, 3):
            along = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed)).to(at)
            ends = [_project(self._sample(found, at + sign * width * along)) for sign in (1.0, -1.0, 0.5, -0.5)]
            wide, near = (ends[0] - ends[1]) / (2 * width), (ends[2] - ends[3]) / width
            gaps.append(abs((gradient * along).double().sum().item() - near) / scale)
            doubts.append(abs(wide - near) / scale)
        off = statistics.median(gaps)
        return off if off > max(OFF, 3 * statistics.median(doubts)) else None

    def _locate(self, found: Findings, noise: Tensor) -> str | None:
        """The line of the sampler's code whose gradient fails, as torch's anomaly mode finds it."""
        at = noise.detach()[:1].clone().requires_grad_()
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(Exception):
            warnings.simplefilter("always")
            with torch.autograd.set_detect_anomaly(True, check_nan=False):
                _gradient(self._sample(found, at, graph=True), at)
        for one in caught:
            if "Traceback of forward call" in str(one.message):
                lines = re.findall(r'File "(.+?)", line (\d+)', str(one.message))
                lines = [(file, line) for file, line in lines if not is_library_file(file)]
                return f"{Path(lines[-1][0]).name}:{lines[-1][1]}" if lines else None
        return None

    def _warn_of_arrays(self, sizes: Sequence[int]) -> None:
        for one in self._witness.arrays:
            if one.centered and torch.Size(one.shape).numel() in sizes:
                self._warn(
                    f"it makes a tensor of a numpy array of shape {one.shape} at {one.where}: if that is noise, all "
                    "rows and seeds share it; draw it with torch.randn"
                )
                return

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self._name}: {text}", NoisewardWarning, stacklevel=2)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _probe(sample: Tensor) -> Tensor:
    return torch.randn(sample.shape, generator=torch.Generator().manual_seed(1)).to(sample)


def _gradient(sample: Tensor, noise: Tensor) -> Tensor | None:
    return torch.autograd.grad(sample, noise, _probe(sample), allow_unused=True)[0]


def _project(sample: Tensor) -> float:
    return (sample.double() * _probe(sample).double()).sum().item()


def _slack(sample: Tensor) -> float:
    """What a replay may differ by, as a share of the largest value."""
    return 0.0 if sample.device.type == "cpu" else 1e-3 if sample.dtype == torch.float32 else 3e-2


def _difference(recorded: Tensor, replayed: Tensor) -> str | None:
    """How two samples of the same draws differ, if they do."""
    if recorded.shape != replayed.shape:
        return f"has shape {tuple(replayed.shape)}, not {tuple(recorded.shape)}"
    gap, scale = (recorded.double() - replayed.double()).abs().max(), recorded.double().abs().max()
    if gap <= _slack(recorded) * scale:
        return None
    return f"differs by up to {gap:.2g} (largest value {scale:.2g})"
