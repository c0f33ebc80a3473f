"""`noiseward show`: one run, in numbers and images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Print the options of a run, its results, and where its images are; draw its plot again."""
    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.errors import RunError, shorten
    from noiseward.images import plot_history
    from noiseward.loop.panel import find_hacked
    from noiseward.runs import RunFolder
    from noiseward.runs.alive import find_state
    from noiseward.runs.consistency import read_record
    from noiseward.runs.files import replace_file

    folder = RunFolder(run)
    record = read_record(folder)
    spec, status, steps = folder.read("spec.json"), record.status, record.steps
    console = terminal.console()
    console.print(f"{run}: {find_state(status['state'], run)}", highlight=False)
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
            replace_file(run / "plot.png", lambda path: plot.save(path, format="PNG"))
        except RunError as error:  # the run may belong to another user
            print(f"noiseward: {error}", file=sys.stderr)
        report(record.spec, status, steps, run, console)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
