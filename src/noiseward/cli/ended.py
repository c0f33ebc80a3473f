"""How `align` and `resume` end: with the result, and with the command that continues what was interrupted."""

from __future__ import annotations

from pathlib import Path

import typer

from noiseward import terminal
from noiseward.cli.ending import advise
from noiseward.cli.printing import print_json
from noiseward.cli.tables import report
from noiseward.loop.budget import Status
from noiseward.loop.solution import Solution
from noiseward.options.commands import PrintOptions
from noiseward.options.run import RunSpec
from noiseward.runs.finish import summarize
from noiseward.runs.store import RunFolder
from noiseward.runs.summary import resume_command, summarize_run

__all__ = ["end_run"]


def end_run(spec: RunSpec, solution: Solution, path: Path, output: PrintOptions) -> None:
    """Print what came out of a run, and exit with status 130 if it was interrupted."""
    if output.as_json:
        print_json(summarize_run(RunFolder(path)))
    elif output.quiet:
        print(path)
    else:
        report(spec, summarize(solution), solution.history, path, terminal.console())
    if Status.INTERRUPTED in solution.status:
        advise(f"continue with: {resume_command(path)}")
        raise typer.Exit(130)
