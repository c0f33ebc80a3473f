"""Few steps first, as a run within the run: its climb is kept in `first/`, a run directory like any other.

Killed or interrupted, it goes on there, and the run itself has its start until then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from noiseward.align import Problem
from noiseward.budget import Status
from noiseward.errors import RunError
from noiseward.nested import First, Through
from noiseward.optimize import Place, Step
from noiseward.runs.fingerprint import fingerprint
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.resume import past, place
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import RunFolder
from noiseward.solution import collecting

__all__ = ["begun", "kept", "waiting"]


def begun(problem: Problem, folder: RunFolder) -> Place | None:
    """Where a run's climb on few steps goes on; None where it was not begun, or there is none."""
    return None if problem.first is None else place(folder.first, problem.noise.device)


def waiting(problem: Problem, folder: RunFolder) -> bool:
    """Whether the climb on few steps was interrupted: what the run has beyond its start is then what it had so far."""
    if problem.first is None:
        return False
    try:
        return folder.first.read("status.json")["state"] == "interrupted"
    except (RunError, KeyError):
        return False


def kept(problem: Problem, spec: RunSpec, folder: RunFolder, at: Place | None) -> Through:
    """Writes steps on few draws down as they pass.

    Arguments:
        problem, spec, folder: of the run.
        at: where they go on, or None.
    """
    if problem.first is None:
        return iter
    few, own = problem.first, folder.first
    asked, model = _spec(few, problem, spec), fingerprint(few.objective.sampler)

    def through(steps: Iterator[Step]) -> Iterator[Step]:
        before, frames = (None, None) if at is None else past(own, at.index)
        if at is None:
            own.clear()
        with Interruptible() as interruptible:
            made = interruptible.within(steps)
            # the lock of the run holds here, too
            written = own.keep(made, asked, fingerprint=model, frames=frames, hold=False)
            solution = yield from collecting(written, few.objective, past=before)
            stopped = interruptible.asked or Status.INTERRUPTED in solution.status
            own.finish(solution, "interrupted" if stopped else "done")
        if stopped or interruptible.asked:
            raise KeyboardInterrupt

    return through


def _spec(few: First, problem: Problem, spec: RunSpec) -> RunSpec:
    """What a run of its own would be asked for, but for its start."""
    part = few.part(problem.budget)
    call = {**spec.call, "num_inference_steps": spec.coarse}
    limits = {"steps": part.steps, "seconds": part.seconds, "nfe": part.nfe}
    return dataclasses.replace(spec, coarse=None, watch=(), call=call, **limits)
