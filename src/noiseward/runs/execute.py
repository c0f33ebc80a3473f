"""Do what a spec says and keep it in a run directory; go on with one."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from noiseward.align import Problem
from noiseward.budget import Status
from noiseward.errors import RunError
from noiseward.optimize import Place, Step
from noiseward.panel import Seen
from noiseward.pipelines import DiffusersSampler
from noiseward.progress import Bars
from noiseward.runs import first
from noiseward.runs.files import locked
from noiseward.runs.fingerprint import fingerprint, same_model
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.resume import extended, past, place, seen
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import RunFolder
from noiseward.solution import Frames, Past, Solution, collecting

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["execute", "fresh_folder", "performing", "resume"]


def execute(spec: RunSpec, out: Path, *, console: Console | None = None, quiet: bool = False) -> Solution:
    """Run a spec into a new directory.

    Arguments:
        spec: what to do.
        out: the directory; it must not exist or be empty.
        console: where the progress bar is drawn.
        quiet: draw none.

    Raises:
        NoisewardError: bad input, before anything is written; or a failure on the way, which `status.json` then names.
    """
    folder, spec = RunFolder(out), spec.resolved()
    folder.check_new()
    bars = None if quiet else Bars(console)
    with bars.waiting() if bars else contextlib.nullcontext():
        problem = spec.problem()
    return _shown(_performing(problem, _written(spec, problem), folder, hold=True, bars=bars), problem, console, bars)


def resume(
    out: Path,
    *,
    steps: str | None = None,
    seconds: str | None = None,
    nfe: str | None = None,
    memory: str | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> Solution:
    """Go on with a run that was killed, interrupted, or finished.

    For budgets in steps, denoiser calls and reward the result is that of a run never interrupted, bit for bit on a CPU.

    Arguments:
        out: the run directory.
        steps, seconds, nfe: a larger budget, in all (`50`) or beside what was asked before (`+20`).
        memory: another memory mode, with gradients that are the same to rounding.
        console: where the progress bar is drawn.
        quiet: draw none.

    Raises:
        RunError: another process writes the run, a file of it cannot be read, or the model is another one now.
    """
    folder = RunFolder(out)
    spec = extended(folder.spec(), steps=steps, seconds=seconds, nfe=nfe)
    spec = spec if memory is None else dataclasses.replace(spec, memory=memory)
    with locked(out):
        bars = None if quiet else Bars(console)
        with bars.waiting() if bars else contextlib.nullcontext():
            problem = spec.problem()
        return _shown(_going_on(problem, _written(spec, problem), folder, bars), problem, console, bars)


def performing(problem: Problem, spec: RunSpec, out: Path) -> Generator[Step, None, Solution]:
    """Begin a run, or go on with it where its directory was begun, passing its steps on; returns the solution.

    Arguments:
        problem: what `spec.problem()` gave.
        spec: what to do; a run that was begun must have been asked for the same.
        out: the directory.

    Raises:
        NoisewardError: as `execute` and `resume`.
    """
    folder, automatic = RunFolder(out), spec.memory == "auto"
    spec = _written(spec.resolved(), problem)
    if not (out / "spec.json").exists():
        if out.is_dir():  # begun, and ended before it was said what it is: nothing of it was reported
            with locked(out):
                shutil.rmtree(out)
        folder.check_new()
        return (yield from _performing(problem, spec, folder, hold=True))
    if automatic:
        spec = dataclasses.replace(spec, memory=folder.spec().memory)
    if folder.spec().text() != spec.text():
        raise RunError(f"{out} holds a run that was asked for something else: give another directory with --out")
    with locked(out):
        return (yield from _going_on(problem, spec, folder))


def _written(spec: RunSpec, problem: Problem) -> RunSpec:
    """A spec with what was chosen for it: a run that goes on takes the same mode, whatever is free then."""
    sampler, memory = problem.objective.sampler, spec.memory
    if memory == "auto" and isinstance(sampler, DiffusersSampler):
        memory = sampler.memory
    return dataclasses.replace(spec, search=spec.search or problem.chosen, memory=memory)


def _going_on(
    problem: Problem, spec: RunSpec, folder: RunFolder, bars: Bars | None = None
) -> Generator[Step, None, Solution]:
    """The steps of a run from its directory on, whose lock is held."""
    at = place(folder, problem.noise.device)
    if at is not None:
        same_model(folder, problem, at.noise)
    folder.write_spec(spec)
    if at is None or first.waiting(problem, folder):  # it ended before its first step was written, or on few steps
        folder.clear()
        return (yield from _performing(problem, spec, folder, bars=bars))
    before, frames = past(folder, at.index)
    looked = seen(folder, before.history, at.noise.device)
    how = {"at": at, "past": before, "seen": looked, "frames": frames, "bars": bars}
    return (yield from _performing(problem, spec, folder, **how))


def _performing(
    problem: Problem,
    spec: RunSpec,
    folder: RunFolder,
    *,
    at: Place | None = None,
    past: Past | None = None,
    seen: Seen | None = None,
    frames: Frames | None = None,
    hold: bool = False,
    bars: Bars | None = None,
) -> Generator[Step, None, Solution]:
    coarse = first.begun(problem, folder) if at is None or at.index == 0 else None
    model = fingerprint(problem.objective.sampler)
    written, shown = first.kept(problem, spec, folder, coarse), problem.showing(bars)
    steps = problem.iterate(at, seen, coarse=coarse, through=lambda steps: shown(written(steps)))
    with Interruptible() as interruptible:
        kept = folder.keep(interruptible.within(steps), spec, fingerprint=model, frames=frames, hold=hold)
        try:
            solution = yield from collecting(kept, problem.objective, past=past)
        except Exception as error:
            folder.fail(error)
            raise
        short = {Status.INTERRUPTED, Status.MEMORY} & {*solution.status}
        folder.finish(solution, "interrupted" if short else "done")
    return solution


def _shown(
    performed: Generator[Step, None, Solution], problem: Problem, console: Console | None, bars: Bars | None
) -> Solution:
    """The solution of a run whose steps go by, seen or unseen."""
    if problem.note and console and bars:
        console.print(problem.note, highlight=False, soft_wrap=True)
    found: list[Solution] = []

    def steps() -> Iterator[Step]:
        found.append((yield from performed))

    for _ in bars.watch(steps(), problem.budget) if bars else steps():
        pass
    return found[0]


def fresh_folder(runs: Path, spec: RunSpec) -> Path:
    """The first free name for a run in a folder: `a-duck-brightness`, then `a-duck-brightness-2`, ..."""
    number = 1
    while (path := runs / (spec.slug if number == 1 else f"{spec.slug}-{number}")).exists():
        number += 1
    return path
