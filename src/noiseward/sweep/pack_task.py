"""Packs as tasks of an engine: each is a run in a directory of its own, which is begun, resumed, and inspected."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

from noiseward.errors import ArgumentError, GradientError, NoisewardError, RunError
from noiseward.loop.budget import Status
from noiseward.loop.panel import Panel
from noiseward.loop.progress import share_spent
from noiseward.methods import default_method, read_method
from noiseward.options.run import RunSpec
from noiseward.problem import Loaded, Problem, prepare_spec
from noiseward.rewards.catalog import ENTRIES
from noiseward.rewards.shortfall import find_gain
from noiseward.runs.alive import find_state
from noiseward.runs.claim import is_vacant
from noiseward.runs.files import lock
from noiseward.runs.images import check_results
from noiseward.runs.inputs import locate_inputs
from noiseward.runs.perform import perform
from noiseward.runs.record import RunRecord, read_record
from noiseward.runs.spec import matches
from noiseward.runs.store import RunFolder
from noiseward.sweep.engine import Beat, Context
from noiseward.sweep.looks import Looks, Measurements, read_looks
from noiseward.sweep.packs import Pack

__all__ = ["PackState", "PackTask", "has_gradient"]


@dataclasses.dataclass(frozen=True)
class PackState:
    """What is on disk of a pack.

    Attributes:
        name: what its run says, but `killed` where it is running there and no process holds the lock of the sweep;
            `waiting` where there is none, `damaged` where its files do not fit together or are not the run of the pack.
        run: what the run says, where that can be read.
        measurements: of a run of a comparison that is done.
        error: what does not fit.
    """

    name: str
    run: RunRecord | None = None
    measurements: Measurements | None = None
    error: str = ""


@final
@dataclasses.dataclass(frozen=True)
class PackTask:
    """A pack, and the sweep directory it belongs to."""

    pack: Pack
    out: Path

    @property
    def name(self) -> str:
        """Of the pack."""
        return self.pack.name

    @property
    def size(self) -> int:
        """Rows of the pack."""
        return self.pack.size

    @property
    def tries_candidates(self) -> bool:
        """Whether its directions or steps come from candidates."""
        differentiable, method = has_gradient(self.pack.spec), self.pack.spec.method
        return read_method(method or default_method(differentiable)).tries_candidates(differentiable)

    @property
    def folder(self) -> RunFolder:
        """Its run directory."""
        return RunFolder(self.out / "packs" / self.pack.name)

    def inspect(self, *, closely: bool = False) -> PackState:
        """What is on disk; a pack is done when all its results are there. `closely` looks at each image, too."""
        pack, folder = self.pack, self.folder
        if not os.path.lexists(folder.path):
            return PackState("waiting")
        try:
            if not os.path.lexists(folder.path / "spec.json"):
                if is_vacant(folder.path):
                    return PackState(find_state("running", self.out))
                return PackState("damaged", error=f"{folder.path} has no spec.json")
            if not matches(folder.spec(), pack.spec):
                return PackState("damaged", error=f"{folder.path} holds another run than this sweep asks for")
            if not os.path.lexists(folder.path / "status.json"):
                return PackState(find_state("running", self.out))
            run = read_record(folder)
            measurements = None
            if run.status["state"] == "done":
                check_results(folder, run, closely=closely)
                measurements = None if pack.measure is None else read_looks(folder, run, pack)
            return PackState(find_state(run.status["state"], self.out), run, measurements)
        except RunError as error:
            return PackState("damaged", error=str(error))

    def run(self, context: Context) -> Iterator[Beat]:
        """Begin the run, or continue it."""
        yield (beat := Beat(self.name, "running", self.size))
        ready = False
        try:
            problem, looks = self._prepare(context.loaded)
            if executor := context.find_executor(locate_inputs(self.pack.spec, self.folder)):
                problem = dataclasses.replace(problem, objective=problem.objective.with_executor(executor))
            ready = True
            self._wait(context.patience)
            steps = perform(
                problem, self.pack.spec, self.folder.path, observe=looks and looks.observe, plots=looks is None
            )
            last, start = 0.0, None
            while True:
                try:
                    step = next(steps)
                except StopIteration as end:
                    state = "interrupted" if Status.INTERRUPTED in end.value.status else "done"
                    yield dataclasses.replace(beat, state=state, part=1.0 if state == "done" else beat.part)
                    return
                start = start or self.folder.steps()[0]["reward"]
                gains = map(find_gain, start, step.best.reward.tolist())
                beat = dataclasses.replace(
                    beat,
                    step=step.index,
                    part=share_spent(step, problem.budget),
                    gain=tuple(gain for gain in gains if gain is not None),
                )
                if time.monotonic() - last >= context.every:
                    last = time.monotonic()
                    yield beat
        except _Refused as refusal:
            yield dataclasses.replace(beat, state="refused", error=_line(refusal))
        except Exception as error:
            kind = "" if isinstance(error, NoisewardError) else f"{type(error).__name__}: "
            divisible = ready and not isinstance(error, RunError)
            yield dataclasses.replace(beat, state="failed", error=kind + _line(error), divisible=divisible)

    def _prepare(self, loaded: Loaded) -> tuple[Problem, Looks | None]:
        """The run, not yet begun; and what measures it, in a comparison, where nothing is watched."""
        own = locate_inputs(self.pack.spec, self.folder)
        if self.pack.measure is None:
            return prepare_spec(own, loaded), None
        spec = own.replace(watch=self.pack.measure)
        try:
            problem = prepare_spec(spec, loaded)
        except (ArgumentError, GradientError) as error:
            prepare_spec(spec.replace(method="best-of-n"), loaded)  # raises where it is not because of the method
            raise _Refused(str(error)) from None
        looks = Looks(problem, self.pack.spec, self.folder.path)
        return dataclasses.replace(problem, panel=Panel(())), looks

    def _wait(self, patience: float) -> None:
        """Wait until no process holds the directory: a lost worker's replacement may start before that one is dead."""
        until = time.monotonic() + patience
        while self.folder.path.is_dir() and time.monotonic() < until:
            try:
                with lock(self.folder.path):
                    return
            except RunError:
                time.sleep(0.2)


class _Refused(Exception):
    """The method does not apply."""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:1000]


def has_gradient(spec: RunSpec) -> bool:
    """Whether the reward of a spec has a gradient, by its name; what is not in the catalog is taken to have one."""
    names = [text.partition(":")[0] for text in spec.reward]
    return not any(
        name in ("http", "https") or (name in ENTRIES and not ENTRIES[name].differentiable) for name in names
    )
