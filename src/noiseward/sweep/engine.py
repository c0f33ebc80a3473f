"""Engines: who does the packs of a batch, and what they say meanwhile.

An engine is given packs and a batch directory and yields beats: a sign of life of a pack now and then, and one when it
ends. What comes out is in the packs' run directories, which are the same whichever engine did them; a pack that was
begun goes on from its checkpoint. `Local` does one after the other in this process; `noiseward.sweep.ray` spreads them
over the devices of a cluster.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final

from noiseward.api import Loaded, prepare_spec
from noiseward.errors import NoisewardError, RunError
from noiseward.loop.budget import Status
from noiseward.loop.executor import Executor
from noiseward.loop.progress import share_spent
from noiseward.runs.claim import is_vacant
from noiseward.runs.consistency import RunRecord, read_record
from noiseward.runs.execute import perform
from noiseward.runs.files import lock
from noiseward.runs.images import check_results
from noiseward.runs.spec import matches
from noiseward.runs.store import RunFolder
from noiseward.sweep.packs import Pack

__all__ = ["Beat", "Engine", "Found", "Local", "State", "look", "work"]

State = Literal["running", "done", "failed", "interrupted"]


@dataclasses.dataclass(frozen=True)
class Beat:
    """A sign of life of a pack.

    Attributes:
        pack: its name.
        state: what it is now.
        rows: how many it has.
        step: the last one made.
        part: how much of its budget is spent, 0 to 1.
        gain: of each row, how much its reward rose; rows whose reward is not finite are left out.
        error: why it failed, in one line.
        divisible: of one that failed, whether its rows may do better one by one: not where the model or a reward could
            not be made, or the directory not be read or written.
    """

    pack: str
    state: State
    rows: int
    step: int = 0
    part: float = 0.0
    gain: tuple[float, ...] = ()
    error: str | None = None
    divisible: bool = False

    def record(self) -> dict[str, Any]:
        """The beat as plain data."""
        return dataclasses.asdict(self)


class Engine(abc.ABC):
    """Does packs."""

    @abc.abstractmethod
    def run(self, packs: Sequence[Pack], out: Path) -> Iterator[Beat]:
        """Do packs into `out/packs`, each until it is done or failed; ends early after an interruption."""


@final
class Local(Engine):
    """One pack after the other, in this process.

    Models and rewards are kept from pack to pack.
    """

    def __init__(self) -> None:
        self._loaded = Loaded()

    def run(self, packs: Sequence[Pack], out: Path) -> Iterator[Beat]:
        for pack in packs:
            for beat in work(pack, out, self._loaded):
                yield beat
                if beat.state == "interrupted":
                    return


def work(
    pack: Pack,
    out: Path,
    loaded: Loaded,
    *,
    executor: Executor | None = None,
    every: float = 0.0,
    patience: float = 0.0,
) -> Iterator[Beat]:
    """Do a pack, or go on with it; the last beat says how it ended. Errors are beats too.

    Arguments:
        pack: what to do.
        out: the batch directory.
        loaded: models and rewards of the packs before.
        executor: who samples candidates; default: this process.
        every: seconds between two beats, at least.
        patience: seconds to wait for another process to let go of the run's directory.
    """
    size, path = sum(1 for _ in pack.rows()), out / "packs" / pack.name
    yield (beat := Beat(pack.name, "running", size))
    made = False
    try:
        problem = prepare_spec(pack.spec, loaded)
        if executor is not None:
            problem = dataclasses.replace(problem, objective=problem.objective.with_executor(executor))
        made = True
        _wait(path, patience)
        performed, said, start = perform(problem, pack.spec, path), 0.0, None
        while True:
            try:
                step = next(performed)
            except StopIteration as end:
                ended = "interrupted" if Status.INTERRUPTED in end.value.status else "done"
                yield dataclasses.replace(beat, state=ended, part=1.0 if ended == "done" else beat.part)
                return
            start = start or RunFolder(path).steps()[0]["reward"]
            gains = [best - begun for best, begun in zip(step.best.reward.tolist(), start, strict=True)]
            fine = tuple(gain for gain in gains if math.isfinite(gain))
            beat = dataclasses.replace(beat, step=step.index, part=share_spent(step, problem.budget), gain=fine)
            if time.monotonic() - said >= every:
                said = time.monotonic()
                yield beat
    except Exception as error:
        message = " ".join(str(error).split())
        kind = "" if isinstance(error, NoisewardError) else f"{type(error).__name__}: "
        divisible = made and not isinstance(error, RunError)
        yield dataclasses.replace(beat, state="failed", error=f"{kind}{message}"[:1000], divisible=divisible)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is found of a pack on disk.

    Attributes:
        state: what its run says; `waiting` where there is none, `damaged` where it does not fit together or is not the
            run of the pack.
        record: what it says of itself, where that can be read.
        error: what does not fit.
    """

    state: str
    record: RunRecord | None = None
    error: str = ""


def look(pack: Pack, out: Path, *, closely: bool = False) -> Found:
    """What is found of a pack in a batch directory; a pack is done when all its results are there.

    Arguments:
        pack: which.
        out: the batch directory.
        closely: look at each image, too.
    """
    folder = RunFolder(out / "packs" / pack.name)
    if not os.path.lexists(folder.path):
        return Found("waiting")
    try:
        if not os.path.lexists(folder.path / "spec.json"):
            return Found("running" if is_vacant(folder.path) else "damaged", error=f"{folder.path} has no spec.json")
        if not matches(folder.spec(), pack.spec):
            return Found("damaged", error=f"{folder.path} holds another run than this batch asks for")
        if not os.path.lexists(folder.path / "status.json"):
            return Found("running")
        found = read_record(folder)
        if found.status["state"] == "done":
            check_results(folder, found, closely=closely)
        return Found(found.status["state"], found)
    except RunError as error:
        return Found("damaged", error=str(error))


def _wait(path: Path, patience: float) -> None:
    """Wait until nobody holds a directory: whoever lost its worker may come back before the worker is quite dead."""
    until = time.monotonic() + patience
    while path.is_dir() and time.monotonic() < until:
        try:
            with lock(path):
                return
        except RunError:
            time.sleep(0.2)
