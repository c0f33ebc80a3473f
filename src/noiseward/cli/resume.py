"""`noiseward resume`: continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli.complete import complete_runs
from noiseward.cli.flags import expand
from noiseward.cli.printing import say_loading
from noiseward.options.commands import ResumeOptions

__all__ = ["resume"]


@expand
def resume(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", autocompletion=complete_runs, help="A run directory: killed, interrupted or finished."
        ),
    ],
    more: ResumeOptions,
) -> None:
    """Continue a run as if it had never stopped."""
    from noiseward import terminal
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs.store import RunFolder

    more.check_printing()
    spec = RunFolder(run).spec()
    if not more.quiet:
        say_loading(spec)

    from noiseward.cli.ended import end_run
    from noiseward.runs.perform import resume as go_on

    set_threads(spec.model)
    limits = {"steps": more.steps, "seconds": more.seconds, "nfe": more.nfe}
    solution = go_on(
        run, **limits, memory=more.memory, log=more.log, console=terminal.console(stderr=True), quiet=more.quiet
    )
    end_run(spec, solution, run, more)
