"""`noiseward resume`: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli.flags import expand
from noiseward.options.commands import ResumeOptions

__all__ = ["resume"]


@expand
def resume(
    run: Annotated[Path, typer.Argument(help="A run directory: killed, interrupted or finished.")], more: ResumeOptions
) -> None:
    """Continue a run as if it had never stopped."""
    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs import RunFolder
    from noiseward.runs import resume as go_on
    from noiseward.runs.store import summarize

    spec = RunFolder(run).spec()
    set_threads(spec.model)
    limits = {"steps": more.steps, "seconds": more.seconds, "nfe": more.nfe}
    solution = go_on(run, **limits, memory=more.memory, console=terminal.console(stderr=True), quiet=more.quiet)
    if more.quiet:
        print(run)
    else:
        report(spec, summarize(solution), solution.history, run, terminal.console())
