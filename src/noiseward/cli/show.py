"""`noiseward show`: one run, in numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show"]


def show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Print what a run was asked, what came out, and where its pictures are; draw its plot anew."""
    from rich.console import Console

    from noiseward import pictures
    from noiseward.cli.tables import report
    from noiseward.runs import RunFolder

    folder = RunFolder(run)
    spec, status, steps = folder.read("spec.json"), folder.read("status.json"), folder.steps()
    console = Console()
    console.print(f"{run}: {status['state']}", highlight=False)
    asked = {
        name: value for name, value in spec.items() if value not in (None, {}, []) and name not in ("prompt", "format")
    }
    console.print(
        ", ".join(f"{name} {_plain(value)}" for name, value in asked.items()), highlight=False, soft_wrap=True
    )
    if "error" in status:
        console.print(f"error: {status['error']}", highlight=False)
    if steps:
        pictures.plot(steps, title=", ".join(spec["prompt"])).save(run / "plot.png")
        report(folder, console)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
