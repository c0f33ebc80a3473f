"""`noiseward resume`: go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["resume"]


def resume(
    run: Annotated[Path, typer.Argument(help="A run directory: killed, interrupted or finished.")],
    steps: Annotated[
        str | None, typer.Option(help="Moves in all, as 50; or beside those asked before, as +20.")
    ] = None,
    seconds: Annotated[str | None, typer.Option(help="Seconds in all, or +MORE.")] = None,
    nfe: Annotated[str | None, typer.Option(help="Denoiser calls in all, or +MORE.")] = None,
    memory: Annotated[str | None, typer.Option(help="Another mode: fast, balanced, low or auto.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")] = False,
) -> None:
    """Go on with a run as if it had never stopped."""
    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.pipelines.cards import set_threads
    from noiseward.runs import RunFolder
    from noiseward.runs import resume as go_on

    set_threads(RunFolder(run).spec().model)
    go_on(run, steps=steps, seconds=seconds, nfe=nfe, memory=memory, console=terminal.console(stderr=True), quiet=quiet)
    if not quiet:
        report(RunFolder(run), terminal.console())
