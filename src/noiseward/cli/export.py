"""`noiseward export`: a run as a grid, an animation, a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    grid: Annotated[Path | None, typer.Option(help="An image of starts and bests: name.png.")] = None,
    animation: Annotated[Path | None, typer.Option(help="The evolution: name.gif or name.webp.")] = None,
    csv: Annotated[Path | None, typer.Option(help="All numbers of all steps: name.csv.")] = None,
) -> None:
    """Write a run as files for others; without options all three, into the run directory."""
    from noiseward.runs import RunFolder
    from noiseward.runs import export as exports

    folder = RunFolder(run)
    folder.spec()
    if not (grid or animation or csv):
        grid, animation, csv = (run / name for name in ("grid.png", "evolution.webp", "steps.csv"))
    exports.check_paths(grid=grid, animation=animation, table=csv)
    if grid:
        print(exports.write_grid(folder, grid))
    if animation:
        print(exports.write_animation(folder, animation))
    if csv:
        print(exports.write_table(folder, csv))
