"""`noiseward show`: one run, in numbers and pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Print what a run was asked, what came out, and where its pictures are; draw its plot anew."""
    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.errors import RunError, shorten
    from noiseward.images import plot_history
    from noiseward.loop.panel import find_hacked
    from noiseward.runs import RunFolder
    from noiseward.runs.alive import really
    from noiseward.runs.consistency import told
    from noiseward.runs.files import replace

    folder = RunFolder(run)
    said = told(folder)
    spec, status, steps = folder.read("spec.json"), said.status, said.steps
    console = terminal.console()
    console.print(f"{run}: {really(status['state'], run)}", highlight=False)
    asked = {
        name: value for name, value in spec.items() if value not in (None, {}, []) and name not in ("prompt", "format")
    }
    console.print(
        ", ".join(f"{name} {_plain(value)}" for name, value in asked.items()), highlight=False, soft_wrap=True
    )
    if "error" in status:
        console.print(f"error: {shorten(str(status['error']))}", highlight=False, soft_wrap=True)
    if steps and "best" in status:
        plot = plot_history(steps, hacked=find_hacked(steps), title=", ".join(spec["prompt"]))
        try:
            replace(run / "plot.png", lambda path: plot.save(path, format="PNG"))
        except RunError as error:  # the run may belong to another user
            print(f"noiseward: {error}", file=sys.stderr)
        report(said.spec, status, steps, run, console)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
