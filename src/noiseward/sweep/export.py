"""A sweep as files for others: all its runs in one grid and one table, and an animation of each."""

from __future__ import annotations

from pathlib import Path

from noiseward.errors import RunError
from noiseward.runs.export import check_paths, write_animation, write_images
from noiseward.runs.record import read_record
from noiseward.runs.store import RunFolder
from noiseward.runs.table import write_tables
from noiseward.sweep.directory import Sweep
from noiseward.sweep.outcomes import find_outcomes, write_contact

__all__ = ["export_sweep", "list_begun"]


def list_begun(sweep: Sweep) -> dict[str, RunFolder]:
    """The runs of a sweep that have steps, by name.

    Raises:
        RunError: there is none.
    """
    folders = {pack.name: RunFolder(sweep.out / "packs" / pack.name) for pack in sweep.parts()}
    begun = {name: folder for name, folder in folders.items() if (folder.path / "status.json").exists()}
    begun = {name: folder for name, folder in begun.items() if read_record(folder).steps}
    if not begun:
        raise RunError(f"{sweep.out} has no run with steps yet; give its command again to continue it")
    return begun


def export_sweep(
    out: Path,
    *,
    grid: Path | None,
    animation: Path | None,
    table: Path | None,
    images: Path | None,
    kind: str = "png",
) -> list[Path]:
    """Write the files that are asked for; returns what was written.

    Arguments:
        out: the directory of a batch or a comparison.
        grid: an image of starts and bests, pair by pair.
        animation: its name with the run's added, `way-0003.webp`, is that of each run's own.
        table: all numbers of all steps, with a column for the run.
        images: a folder for the best images, of the given kind: `0003-00.jpg`, pack and row.
        kind: `png`, `jpg` or `webp`.
    """
    check_paths(grid=grid, animation=animation)
    sweep = Sweep.read(out)
    runs, written = list_begun(sweep), list[Path]()
    if grid:
        write_contact([one for _, _, some in find_outcomes(sweep) for one in some], out, grid)
        if not grid.exists():
            raise RunError(f"{out} has no images; its samples are not images, or none of its runs is done")
        written.append(grid)
    if animation:
        written += [write_animation(run, animation.with_stem(f"{animation.stem}-{name}")) for name, run in runs.items()]
    if table:
        written.append(write_tables(runs, table))
    for name, run in runs.items() if images else ():
        written += write_images(run, images or out, kind=kind, prefix=f"{name}-")
    return written
