"""Do what a spec says and keep it in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noiseward.optimize import Status
from noiseward.progress import watch
from noiseward.runs.interrupt import Interruptible
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import RunFolder
from noiseward.solution import Solution, collect

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["execute", "fresh_folder"]


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
    folder = RunFolder(out)
    folder.check_new()
    problem = spec.problem()
    with Interruptible() as interruptible:
        kept = folder.keep(interruptible.within(problem.iterate()), spec)
        try:
            solution = collect(kept if quiet else watch(kept, problem.budget, console=console), problem.objective)
        except Exception as error:
            folder.fail(error)
            raise
        folder.finish(solution, "interrupted" if Status.INTERRUPTED in solution.status else "done")
    return solution


def fresh_folder(runs: Path, spec: RunSpec) -> Path:
    """The first free name for a run in a folder: `a-duck-brightness`, then `a-duck-brightness-2`, ..."""
    number = 1
    while (path := runs / (spec.slug if number == 1 else f"{spec.slug}-{number}")).exists():
        number += 1
    return path
