"""Few steps first, as a run within the run: its optimization is kept in `first/`, a run directory like any other.

Killed or interrupted, it is resumed there, and the run itself has its start until then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from noiseward.errors import RunError
from noiseward.loop.budget import Status
from noiseward.loop.collect import Collector
from noiseward.loop.step import Step
from noiseward.methods import read_method
from noiseward.optimizers.coarse_to_fine import CoarseStage, Through
from noiseward.options.run import RunSpec
from noiseward.problem import Problem
from noiseward.runs import spec as specs
from noiseward.runs.finish import finish
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.resume_point import ResumePoint, find_resume_point, mark_running
from noiseward.runs.store import RunFolder
from noiseward.runs.write import Writer
from noiseward.samplers.fingerprint import compute_fingerprint

__all__ = ["find_first", "record_first", "is_interrupted"]


def find_first(problem: Problem, spec: RunSpec, folder: RunFolder) -> ResumePoint | None:
    """Where a run's optimization on few steps continues; None if it was not begun, or there is none.

    Raises:
        RunError: it is damaged, or that of another run.
    """
    if problem.first is None or not os.path.lexists(folder.first.path / "spec.json"):
        return None
    if not specs.matches(folder.first.spec(), _spec(problem.first, problem, spec)):
        raise RunError(f"{folder.first.path} belongs to another run than {folder.path}; restore it, or run again")
    return find_resume_point(folder.first, problem.noise.device)


def is_interrupted(problem: Problem, spec: RunSpec, folder: RunFolder, stood: ResumePoint) -> bool:
    """Whether optimization on few steps was interrupted: what the run has beyond its start is then what it had so
    far."""
    if problem.first is None or stood.place.index == 0 or find_first(problem, spec, folder) is None:
        return False
    return folder.first.read("status.json")["state"] == "interrupted"


def record_first(problem: Problem, spec: RunSpec, folder: RunFolder, stood: ResumePoint | None) -> Through:
    """Write steps on few draws down as they pass.

    Arguments:
        problem, spec, folder: of the run.
        stood: where they continue, or None.
    """
    if problem.first is None:
        return iter
    few, own = problem.first, folder.first
    asked, model = _spec(few, problem, spec), compute_fingerprint(few.objective.sampler)

    def through(steps: Iterator[Step]) -> Iterator[Step]:
        past, frames, log = (stood.past, stood.frames, stood.log(own)) if stood else (None, None, None)
        if stood is not None:
            own.write_spec(asked)
            mark_running(own, stood.data)
        before = past.initial.reward.tolist() if past else None
        layout, known = few.objective.sampler.layout, {"frames": frames, "log": log, "before": before}
        writer = Writer(own.path, asked, fingerprint=model, layout=layout, **known)
        collector = Collector(few.objective, past)
        with Interruptible() as interruptible:
            with collector:
                for step in interruptible.within(steps):
                    writer.write(step)
                    collector.add(step)
                    yield step
            solution = collector.solution
            stopped = interruptible.asked or Status.INTERRUPTED in solution.status
            finish(own, solution, "interrupted" if stopped else "done")
        if stopped or interruptible.asked:
            raise KeyboardInterrupt

    return through


def _spec(few: CoarseStage, problem: Problem, spec: RunSpec) -> RunSpec:
    """What a separate run would be asked for, apart from its start."""
    part = few.part(problem.budget)
    recipe = read_method(spec.method or "dno")
    limits = {"steps": part.steps, "seconds": part.seconds, "nfe": part.nfe}
    fresh = RunSpec(**spec.values())  # not that of an earlier format, which this run may be
    method = recipe.replace(coarse=None, guard="none" if recipe.is_tested else recipe.guard).text
    return fresh.replace(method=method, watch=(), num_inference_steps=recipe.coarse, **limits)
