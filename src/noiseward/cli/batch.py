"""`noiseward batch`: many prompts, one command, one directory."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiseward.cli.flags import Without, expand
from noiseward.options.commands import BatchOptions, EngineOptions
from noiseward.options.run import RunSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from noiseward.sweep.ray import RayEngine
    from noiseward.sweep.report import Outcome

__all__ = ["batch", "table"]


@expand
def batch(task: BatchOptions, workers: EngineOptions, base: Annotated[RunSpec, Without("prompt", "batch")]) -> None:
    """Raise a reward for many prompts; asked again, continue. Ends with a table, images and a page in the directory."""
    import torch

    from noiseward import terminal
    from noiseward.errors import ArgumentError
    from noiseward.sweep.directory import begin
    from noiseward.sweep.engine import Local
    from noiseward.sweep.report import report
    from noiseward.sweep.rows import read
    from noiseward.sweep.view import Tally, follow, in_lines

    out, quiet, json = Path(task.out), task.quiet, task.json_lines
    if json and quiet:
        raise ArgumentError("--json prints everything and --quiet nothing; leave one out")
    workers.check()
    torch.set_num_threads(workers.threads)
    rows = read(task.prompts, base.replace(batch=task.seeds or 1), template=task.template)
    asked = begin(out, rows, size=task.pack)
    total = sum(1 for one in asked.packs for _ in one.rows())
    tally = Tally(total, total - sum(1 for one in asked.undone() for _ in one.rows()))
    errors: dict[str, str] = {}
    stopped = False
    with contextlib.ExitStack() as stack:
        view: Any = asked.run(stack.enter_context(_ray(workers)) if workers.engine == "ray" else Local())
        if json:
            view = in_lines(view, tally, sys.stdout)
        elif not quiet:
            view = follow(view, tally, asked.packs, console=terminal.console(stderr=True))
        try:
            for beat in view:
                stopped = stopped or beat.state == "interrupted"
                if beat.error:
                    errors[beat.pack] = beat.error
        except KeyboardInterrupt:
            stopped = True
    found = report(asked, errors)
    if quiet or json:
        print(out, file=sys.stderr if json else sys.stdout)
    else:
        console = terminal.console()
        table(found, out, console)
        if stopped:
            console.print("stopped: the same command goes on", highlight=False)
    undone = [one for one in found if one.state != "done"]
    if undone:
        print(_last(undone, len(found)), file=sys.stderr)
        raise typer.Exit(1)


def _last(undone: Sequence[Outcome], rows: int) -> str:
    """The last line of a batch that is not done: what failed, and how to go on."""
    bad = [one for one in undone if one.state in ("failed", "damaged")]
    if not bad:
        return f"noiseward: {len(undone)} of {rows} rows are not done; give the same command again to go on"
    first = bad[0]
    return (
        f"noiseward: {len(bad)} of {rows} rows are {first.state}, first '{first.id}' with seed {first.seed} "
        f"({first.error or 'for no known reason'}): correct that, and give the same command again to go on"
    )


def _ray(workers: EngineOptions) -> RayEngine:
    from noiseward.sweep.ray import RayEngine

    return RayEngine(workers.address, workers=workers.workers, threads=workers.threads)


def table(found: Sequence[Outcome], out: Path, console: Console) -> None:
    """Print the outcomes of a batch, one line per prompt, and where its files are."""
    from rich.table import Table

    from noiseward.noise.typicality import SUSPECT
    from noiseward.sweep.report import counted

    lines = Table(box=None, header_style="bold")
    for title in ("id", "prompt", "rows", "before", "best", "gain", "P(z)", "state"):
        lines.add_column(title, justify="left" if title in ("id", "prompt", "state") else "right")
    by_id: dict[str, list[Outcome]] = {}
    for one in found:
        by_id.setdefault(one.id, []).append(one)
    for name, rows in by_id.items():
        means = [_mean([getattr(one, column) for one in rows]) for column in ("before", "best", "gain", "probability")]
        lines.add_row(name, rows[0].prompt, str(len(rows)), *means, counted(rows))
    console.print(lines)
    for error in dict.fromkeys(one.error for one in found if one.error):
        ids = ", ".join(dict.fromkeys(one.id for one in found if one.error == error))
        console.print(f"{ids}: {error}", highlight=False, soft_wrap=True)
    odd = sum(one.strict is not None and one.strict < SUSPECT for one in found)
    if odd:
        console.print(f"the noise of {odd} rows no longer looks like noise: index.csv, column strict", highlight=False)
    gain = _mean([one.gain for one in found]) if len({one.reward for one in found}) == 1 else ""
    console.print(f"{counted(found)}" + (f"; mean gain {gain}" if gain else ""), highlight=False)
    for file in ("index.csv", "contact.png", "report.html"):
        if (out / file).exists():
            console.print(str(out / file), highlight=False, soft_wrap=True)


def _mean(numbers: list[float | None]) -> str:
    there = [number for number in numbers if number is not None]
    return f"{sum(there) / len(there):.4g}" if there else ""
