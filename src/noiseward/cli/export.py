"""`noiseward export`: a run, a batch or a comparison as a grid, an animation, a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli.complete import RunArgument
from noiseward.cli.printing import JsonFlag, print_json
from noiseward.errors import ArgumentError

__all__ = ["export"]


def export(
    run: RunArgument,
    grid: Annotated[Path | None, typer.Option(help="An image of starts and bests: name.png.")] = None,
    animation: Annotated[Path | None, typer.Option(help="The evolution: name.gif or name.webp.")] = None,
    images: Annotated[Path | None, typer.Option(help="The best images, each with what made it: a folder.")] = None,
    format: Annotated[str | None, typer.Option(help="Of these images: png, jpg or webp.  [default: png]")] = None,
    html: Annotated[Path | None, typer.Option(help="A page with a slider over the steps: name.html.")] = None,
    csv: Annotated[Path | None, typer.Option(help="All numbers of all steps: name.csv.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a run as files for others; without options grid, animation, page and table, into the run directory.

    Of a batch or a comparison, which have a page already, the grid and the table have all its runs, and each run has an
    animation of its own: name-0000.webp, name-0001.webp, ...
    """
    from noiseward.runs.files import check_target
    from noiseward.runs.store import RunFolder

    many = os.path.exists(run / "batch.json")
    if not many:
        RunFolder(run).spec()
    if html and many:
        raise ArgumentError(f"a batch or a comparison has its page already, {run / 'report.html'}; leave out --html")
    if format and not images:
        raise ArgumentError("--format is for the files of --images, got none; give a folder for them")
    kind = format or "png"
    if not (grid or animation or csv or images or html):
        grid, animation, csv = (run / name for name in ("grid.png", "evolution.webp", "steps.csv"))
        html = None if many else run / "page.html"
    for path in filter(None, (csv, html)):
        check_target(path)
    written: list[Path] = []
    if many:
        from noiseward.sweep.export import export_sweep

        written += export_sweep(run, grid=grid, animation=animation, table=csv, images=images, kind=kind)
    elif grid or animation or images:
        from noiseward.runs.export import check_paths, write_animation, write_grid, write_images

        check_paths(grid=grid, animation=animation)
        written += [write_grid(RunFolder(run), grid)] if grid else []
        written += [write_animation(RunFolder(run), animation)] if animation else []
        written += write_images(RunFolder(run), images, kind=kind) if images else []
    if html:
        from noiseward.runs.viewer import write_viewer

        written.append(write_viewer(RunFolder(run), html))
    if csv and not many:
        from noiseward.runs.table import write_table

        written.append(write_table(RunFolder(run), csv))
    if json:
        print_json({"files": written})
    else:
        print(*written, sep="\n")
