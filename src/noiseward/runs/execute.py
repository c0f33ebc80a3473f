"""Do what a spec says and keep it in a run directory; go on with one."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noiseward.align import Problem
from noiseward.budget import Status
from noiseward.errors import RunError
from noiseward.optimize import Place, Step
from noiseward.panel import Seen
from noiseward.pipelines import DiffusersSampler
from noiseward.progress import watch
from noiseward.runs.files import locked
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.resume import extended, past, place, seen
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import RunFolder
from noiseward.solution import Frames, Past, Solution, collecting

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["execute", "fingerprint", "fresh_folder", "performing", "resume", "same_model"]


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
    problem = spec.problem()
    return _shown(_performing(problem, _written(spec, problem), folder, hold=True), problem, console, quiet)


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
        problem = spec.problem()
        return _shown(_going_on(problem, _written(spec, problem), folder), problem, console, quiet)


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


def _going_on(problem: Problem, spec: RunSpec, folder: RunFolder) -> Generator[Step, None, Solution]:
    """The steps of a run from its directory on, whose lock is held."""
    at = place(folder, problem.noise.device)
    if at is not None:
        same_model(folder, problem, at.noise)
    folder.write_spec(spec)
    if at is None:  # it ended before its first step was written
        folder.rewrite([])
        return (yield from _performing(problem, spec, folder))
    before, frames = past(folder, at.index)
    looked = seen(folder, before.history, at.noise.device)
    return (yield from _performing(problem, spec, folder, at=at, past=before, seen=looked, frames=frames))


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
) -> Generator[Step, None, Solution]:
    with Interruptible() as interruptible:
        kept = folder.keep(
            interruptible.within(problem.iterate(at, seen)),
            spec,
            fingerprint=fingerprint(problem),
            frames=frames,
            hold=hold,
        )
        try:
            solution = yield from collecting(kept, problem.objective, past=past)
        except Exception as error:
            folder.fail(error)
            raise
        short = {Status.INTERRUPTED, Status.MEMORY} & {*solution.status}
        folder.finish(solution, "interrupted" if short else "done")
    return solution


def _shown(
    performed: Generator[Step, None, Solution], problem: Problem, console: Console | None, quiet: bool
) -> Solution:
    """The solution of a run whose steps go by, seen or unseen."""
    if problem.note and console and not quiet:
        console.print(problem.note, highlight=False, soft_wrap=True)
    found: list[Solution] = []

    def steps() -> Iterator[Step]:
        found.append((yield from performed))

    for _ in steps() if quiet else watch(steps(), problem.budget, console=console):
        pass
    return found[0]


def fingerprint(problem: Problem) -> str:
    """A short digest of the draws of a sampler and a few numbers of every weight of its model."""
    sampler = problem.objective.sampler
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr([(draw.name, draw.shape, draw.role, draw.live) for draw in sampler.layout]).encode())
    if isinstance(sampler, DiffusersSampler):
        modules = (part for _, part in sorted(sampler.pipe.components.items()) if isinstance(part, torch.nn.Module))
        parameters = [parameter.detach().flatten()[:8] for module in modules for parameter in module.parameters()]
        digest.update(torch.cat([part.float().cpu() for part in parameters]).numpy().tobytes())
    return digest.hexdigest()


def same_model(folder: RunFolder, problem: Problem, noise: Tensor) -> None:
    """Raise `RunError` unless a problem is that of a run: noise of the same layout, a model of the same weights."""
    try:
        problem.objective.sampler.layout.check(noise)
    except ValueError as error:
        raise RunError(f"{folder.path} was run with another model or other arguments: {error}") from None
    known = folder.read("env.json").get("fingerprint")
    if known and known != fingerprint(problem):
        raise RunError(
            f"{folder.path} was run with other weights than '{folder.spec().model}' has now: restore them, or run again"
        )


def fresh_folder(runs: Path, spec: RunSpec) -> Path:
    """The first free name for a run in a folder: `a-duck-brightness`, then `a-duck-brightness-2`, ..."""
    number = 1
    while (path := runs / (spec.slug if number == 1 else f"{spec.slug}-{number}")).exists():
        number += 1
    return path
