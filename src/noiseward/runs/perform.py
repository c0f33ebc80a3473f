"""Execute a spec in a run directory, and resume one."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.errors import NoisewardError, RunError
from noiseward.loop.budget import Status
from noiseward.loop.collect import Collector
from noiseward.loop.progress import Bars, Display
from noiseward.loop.solution import Solution
from noiseward.loop.step import Checkpoint, Step
from noiseward.options.run import RunSpec
from noiseward.problem import Problem, prepare_spec
from noiseward.runs import first
from noiseward.runs import spec as specs
from noiseward.runs.answers import AnswerLog
from noiseward.runs.claim import Claim
from noiseward.runs.describe import about_spec
from noiseward.runs.extend import Spent, check_more, extend
from noiseward.runs.files import lock
from noiseward.runs.fingerprint import check_model, check_reward
from noiseward.runs.finish import fail, finish, interrupt
from noiseward.runs.inputs import Inputs, locate_inputs, read_inputs
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.log import Log
from noiseward.runs.resume_point import ResumePoint, find_resume_point, mark_running
from noiseward.runs.store import RunFolder
from noiseward.runs.write import Writer
from noiseward.samplers.fingerprint import compute_fingerprint
from noiseward.trackers import Log as Trackers
from noiseward.trackers import TrackedRun, check_trackers, list_trackers, open_tracker, track

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Observe", "execute", "perform", "resume"]

Observe = Callable[[Iterator[Step], Checkpoint | None], Iterator[Step]]
"""What steps pass before they are written, with where they continue from: it yields them again."""


def execute(
    spec: RunSpec, out: Path | Claim, *, log: Trackers = (), console: Console | None = None, quiet: bool = False
) -> Solution:
    """Run a spec into a new directory.

    Arguments:
        spec: what to do.
        out: the directory; it must not exist or be empty. A `Claim` for another one where it is taken.
        log: trackers, by name or opened.
        console: where the progress bar is drawn.
        quiet: draw none.

    Raises:
        NoisewardError: bad input, before anything is written; or a failure during the run, which `status.json` then
            names.
    """
    check_trackers(log)
    spec = specs.set_limits(spec)
    bars, inputs = None if quiet else Bars(console), read_inputs(spec)
    with out if isinstance(out, Claim) else Claim(out) as path:
        with bars.show_discovery() if bars else contextlib.nullcontext():
            problem = prepare_spec(spec)
        spec, folder = _written(spec, problem), RunFolder(path)
        steps = _performing(problem, spec, folder, trackers=log, bars=bars, inputs=inputs)
        return _shown(steps, problem, spec, folder, console, bars)


def resume(
    out: Path,
    *,
    steps: str | None = None,
    seconds: str | None = None,
    nfe: str | None = None,
    memory: str | None = None,
    log: Trackers = (),
    console: Console | None = None,
    quiet: bool = False,
) -> Solution:
    """Resume a run that was killed, interrupted, or finished.

    For budgets in steps, denoiser calls and reward the result is that of a run never interrupted, bit for bit on a CPU.

    Arguments:
        out: the run directory.
        steps, seconds, nfe: a larger budget, in total (`50`) or in addition to what is done (`+20`).
        memory: another memory mode, with gradients that are the same to rounding.
        log: trackers, by name or opened.
        console: where the progress bar is drawn.
        quiet: draw none.

    Raises:
        ArgumentError: a budget that is spent already; nothing is changed then.
        RunError: another process writes the run, a file of it cannot be read, or the model or the reward is another
            one now.
    """
    check_trackers(log)
    folder = RunFolder(out)
    folder.spec()  # whether it is a run, before a lock is put there
    with lock(out):
        done, more = Spent.read(folder), (steps, seconds, nfe) != (None,) * 3
        spec = extend(folder.spec(), done, steps=steps, seconds=seconds, nfe=nfe)
        spec = spec if memory is None else spec.replace(memory=memory)
        bars = None if quiet else Bars(console)
        with bars.show_discovery() if bars else contextlib.nullcontext():
            problem = prepare_spec(locate_inputs(spec, folder))
        # The run's id depends on the text of the method, which stays.
        spec = _written(spec, problem).replace(method=spec.method or problem.method)
        performed = _going_on(problem, spec, folder, done=done if more else None, trackers=log, bars=bars)
        return _shown(performed, problem, spec, folder, console, bars)


def perform(
    problem: Problem,
    spec: RunSpec,
    out: Path,
    *,
    observe: Observe | None = None,
    log: Trackers = (),
    bars: Display | None = None,
    besides: tuple[str, ...] = (),
    plots: bool = True,
) -> Generator[Step, None, Solution]:
    """Begin a run, or resume it where its directory was begun, yielding its steps; returns the solution.

    Arguments:
        problem: what `prepare_spec(spec)` gave, or `prepare_spec(locate_inputs(spec, folder))` for one that was begun.
        spec: what to do; a run that was begun must have been asked for the same.
        out: the directory.
        observe: what steps pass before they are written.
        log: trackers, by name or opened.
        bars: where they are shown.
        besides: options in which a run that was begun may differ; it takes the new ones.
        plots: whether to draw the strip and the plot at the end.

    Raises:
        NoisewardError: as `execute` and `resume`.
    """
    folder, automatic = RunFolder(out), spec.memory == "auto"
    if bars is not None and observe is None:
        observe = functools.partial(_shown_by, bars, problem)
    how: dict[str, Any] = {"observe": observe, "trackers": log, "bars": bars, "plots": plots}
    spec = _written(specs.set_limits(spec), problem)
    if not os.path.lexists(out / "spec.json"):
        with Claim(out):
            return (yield from _performing(problem, spec, folder, **how))
    with lock(out):
        known = folder.spec()
        if not specs.matches(known, spec, besides=(*besides, *(["memory"] if automatic else []))):
            raise RunError(f"{out} holds a run that was asked for something else; give another directory (out)")
        known = known.replace(**{name: getattr(spec, name) for name in besides})
        return (yield from _going_on(problem, known, folder, **how))


def _shown_by(bars: Display, problem: Problem, steps: Iterator[Step], _: Checkpoint | None) -> Iterator[Step]:
    return bars.track(steps, problem.budget)


def _written(spec: RunSpec, problem: Problem) -> RunSpec:
    """A spec with what was chosen for it: a resumed run takes the same memory mode, however much is free then."""
    memory = problem.objective.sampler.memory if spec.memory == "auto" else spec.memory
    return spec.replace(method=problem.method, memory=memory)


def _going_on(
    problem: Problem, spec: RunSpec, folder: RunFolder, *, done: Spent | None = None, **how: Any
) -> Generator[Step, None, Solution]:
    """The steps of a run from its directory on, whose lock is held; `done` where it was asked for more than that."""
    stood = find_resume_point(folder, problem.noise.device)
    if stood is None:  # it ended before its first step was written
        return (yield from _performing(problem, spec, folder, **how))
    if done is not None:
        check_more(stood, done, problem.budget)
    check_model(folder, problem, stood.place.noise)
    check_reward(folder, problem, stood)
    again = first.is_interrupted(problem, spec, folder, stood)
    folder.write_spec(spec)
    mark_running(folder, stood.data, again=again)
    if again:
        log = stood.log(folder, again=True)
        return (yield from _performing(problem, spec, folder, log=log, **how))
    return (yield from _performing(problem, spec, folder, stood=stood, log=stood.log(folder), **how))


def _performing(
    problem: Problem,
    spec: RunSpec,
    folder: RunFolder,
    *,
    stood: ResumePoint | None = None,
    log: Log | None = None,
    bars: Display | None = None,
    observe: Observe | None = None,
    trackers: Trackers = (),
    plots: bool = True,
    inputs: Inputs | None = None,
) -> Generator[Step, None, Solution]:
    """The steps of a run from a place on, or from its start; its directory is held."""
    at, past, seen, frames = (stood.place, stood.past, stood.seen, stood.frames) if stood else (None,) * 4
    coarse = first.find_first(problem, spec, folder) if at is None or at.index == 0 else None
    model = compute_fingerprint(problem.objective.sampler)
    written, shown = first.record_first(problem, spec, folder, coarse), problem.showing(bars)
    history = past.history if past else ()
    few = {"coarse": coarse and coarse.place, "through": lambda steps: shown(written(steps))}
    steps = problem.iterate(at, seen, history=history, **few)
    steps = observe(steps, at) if observe else steps
    before = past.initial.reward.tolist() if past else None
    tracked = TrackedRun(folder.path.resolve().name, folder=folder.path, config=spec.plain())
    for tracker in list_trackers(trackers):
        steps = track(steps, open_tracker(tracker, tracked), about_spec(spec), before=before)
    layout, known = problem.objective.sampler.layout, {"frames": frames, "log": log, "before": before}
    given = read_inputs(spec) if inputs is None and log is None else inputs
    writer = Writer(folder.path, spec, fingerprint=model, layout=layout, inputs=given, **known)
    collector = Collector(problem.objective, past, method=problem.does, about=problem.about)
    answers = AnswerLog(problem, folder.path)
    with Interruptible() as interruptible:
        try:
            with collector:
                for step in interruptible.within(steps):
                    writer.write(step)
                    answers.write()
                    collector.add(step)
                    yield step
            solution = collector.solution
        except Exception as error:
            if stood is not None and specs.run_id(spec) is None and not isinstance(error, NoisewardError):
                # format 1 has no checksum that would have found it before
                file, kind = folder.path / "latest.safetensors", type(error).__name__
                error = RunError(f"{file} does not fit the run ({kind}: {str(error)[:80]}); restore it, or run again")
            fail(folder, error)
            raise error
        except KeyboardInterrupt:
            interrupt(folder)
            raise
        answers.write()  # those of a step that was broken off
        short = {Status.INTERRUPTED, Status.MEMORY, Status.COST} & {*solution.status}
        finish(folder, solution, "interrupted" if short else "done", plots=plots)
    return solution


def _shown(
    performed: Generator[Step, None, Solution],
    problem: Problem,
    spec: RunSpec,
    folder: RunFolder,
    console: Console | None,
    bars: Display | None,
) -> Solution:
    """The solution of a run whose steps go by, seen or unseen."""
    if console and bars:
        limits = (f"{name} {value:g}" for name, value in spec.limits.items() if value is not None)
        rows = f"{spec.rows} images, " if spec.rows > 1 else ""
        plan = f"{folder.path}: {rows}{spec.method or 'its own method'}, {', '.join(limits)}"
        console.print(plan, highlight=False, soft_wrap=True)
        if problem.note:
            console.print(problem.note, highlight=False, soft_wrap=True)
    found: list[Solution] = []

    def steps() -> Iterator[Step]:
        found.append((yield from performed))

    for _ in bars.track(steps(), problem.budget) if bars else steps():
        pass
    return found[0]
