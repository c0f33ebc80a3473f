"""`noiseward batch`: many prompts, one command, one directory."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from noiseward.cli.flags import Without, expand
from noiseward.options.commands import BatchOptions, EngineOptions
from noiseward.options.run import RunSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from noiseward.sweep.outcomes import Outcome

__all__ = ["batch"]


@expand
def batch(task: BatchOptions, workers: EngineOptions, base: Annotated[RunSpec, Without("prompt", "batch")]) -> None:
    """Raise a reward for many prompts; asked again, continue. Ends with a table, images and a page in the directory."""
    from noiseward import terminal
    from noiseward.cli.sweep import exit_undone, run_sweep
    from noiseward.errors import ArgumentError
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.report import report
    from noiseward.sweep.rows import read_rows

    if task.json_lines and task.quiet:
        raise ArgumentError("--json prints everything and --quiet nothing; leave one out")
    workers.check()
    rows = read_rows(task.prompts, base.replace(batch=task.seeds or 1), template=task.template)
    sweep = Sweep.begin(Path(task.out), rows, size=task.pack)
    ended, stopped = run_sweep(sweep, workers, quiet=task.quiet, json=task.json_lines)
    outcomes = report(sweep, ended)
    if task.quiet or task.json_lines:
        print(sweep.out, file=sys.stderr if task.json_lines else sys.stdout)
    else:
        console = terminal.console()
        _print_outcomes(outcomes, sweep.out, console)
        if stopped:
            console.print("stopped; the same command continues", highlight=False)
    exit_undone(outcomes)


def _print_outcomes(outcomes: Sequence[Outcome], out: Path, console: Console) -> None:
    """Print the outcomes, one line per prompt, and where the files are."""
    from rich.table import Table

    from noiseward.noise.typicality import SUSPECT
    from noiseward.sweep.outcomes import count_states

    table = Table(box=None, header_style="bold")
    for title in ("id", "prompt", "rows", "before", "best", "gain", "P(z)", "state"):
        table.add_column(title, justify="left" if title in ("id", "prompt", "state") else "right")
    by_id, by_error = defaultdict[str, list["Outcome"]](list), defaultdict[str, dict[str, None]](dict)
    for one in outcomes:
        by_id[one.id].append(one)
        if one.error:
            by_error[one.error][one.id] = None
    for name, rows in by_id.items():
        means = [_mean([getattr(one, column) for one in rows]) for column in ("before", "best", "gain", "probability")]
        table.add_row(name, rows[0].prompt, str(len(rows)), *means, count_states(rows))
    console.print(table)
    for error, ids in by_error.items():
        console.print(f"{', '.join(ids)}: {error}", highlight=False, soft_wrap=True)
    suspects = sum(one.strict is not None and one.strict < SUSPECT for one in outcomes)
    if suspects:
        console.print(f"the noise of {suspects} rows is out of distribution: index.csv, column strict", highlight=False)
    gain = _mean([one.gain for one in outcomes]) if len({one.reward for one in outcomes}) == 1 else ""
    console.print(f"{count_states(outcomes)}" + (f"; mean gain {gain}" if gain else ""), highlight=False)
    for file in ("index.csv", "contact.png", "report.html"):
        if (out / file).exists():
            console.print(str(out / file), highlight=False, soft_wrap=True)


def _mean(numbers: list[float | None]) -> str:
    there = [number for number in numbers if number is not None]
    return f"{sum(there) / len(there):.4g}" if there else ""
