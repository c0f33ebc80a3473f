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
    from noiseward.cli.tables import results
    from noiseward.runs import RunFolder

    folder = RunFolder(run)
    spec, status, steps = folder.read("spec.json"), folder.read("status.json"), folder.steps()
    console = Console()
    console.print(f"{run}: {status['state']} at step {status['step']} after {status['seconds']:.1f} s", highlight=False)
    asked = {
        name: value for name, value in spec.items() if value not in (None, {}) and name not in ("prompt", "format")
    }
    console.print(", ".join(f"{name} {_plain(value)}" for name, value in asked.items()), highlight=False)
    prompts = [prompt for prompt in spec["prompt"] for _ in range(spec["batch"])]
    if steps:
        found = status["found"]
        likely = [
            next(step["probability"][row] for step in steps if step["index"] == found[row]) for row in range(len(found))
        ]
        console.print(results(prompts, steps[0]["reward"], status["best"], likely, found, status["rows"]))
        pictures.plot(steps, title=", ".join(spec["prompt"])).save(run / "plot.png")
    if "error" in status:
        console.print(f"error: {status['error']}", highlight=False)
    for name in ("initial", "best", "strip.png", "plot.png"):
        if (run / name).exists():
            console.print(str(run / name), highlight=False, soft_wrap=True)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
