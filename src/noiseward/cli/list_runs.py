"""`noiseward list`: the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["list_runs"]


def list_runs(folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.")] = Path("runs")) -> None:
    """List the runs in a folder, newest first."""
    from rich.console import Console
    from rich.table import Table

    from noiseward.errors import RunError
    from noiseward.runs import find

    table = Table(box=None, header_style="bold")
    for title in ("run", "state", "prompt", "reward", "before", "best", "steps", "seconds"):
        table.add_column(title, justify="right" if title in ("before", "best", "steps", "seconds") else "left")
    found = find(folder)
    for run in found:
        try:
            spec, status, steps = run.read("spec.json"), run.read("status.json"), run.steps()
        except RunError as error:
            table.add_row(run.path.name, "unreadable", str(error))
            continue
        before = _mean(steps[0]["reward"]) if steps else ""
        prompts = spec["prompt"][0] + (f" (+{len(spec['prompt']) - 1})" if len(spec["prompt"]) > 1 else "")
        table.add_row(
            run.path.name, status["state"], prompts, " + ".join(spec["reward"]), before, _mean(status["best"]),
            str(status["step"]), f"{status['seconds']:.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table if found else f"no runs in {folder}: 'noiseward align' makes one")


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4g}"
