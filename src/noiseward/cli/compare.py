"""`noiseward compare`: which method, for this model, this reward and this budget?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noiseward.cli.flags import Without, expand
from noiseward.options.commands import CompareOptions, EngineOptions
from noiseward.options.parts import split_parts
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of

if TYPE_CHECKING:
    from noiseward.sweep.measure import Line

__all__ = ["compare"]

SEEDS = 4


@expand
def compare(
    task: CompareOptions,
    workers: EngineOptions,
    base: Annotated[RunSpec, Without("prompt", "method", "batch", "steps", "seconds", "nfe", "target", "watch_every")],
) -> None:
    """Run methods at equal cost on the same prompts and seeds, and rank them, with held-out rewards as a check."""
    from noiseward.cli.sweep import exit_undone, run_sweep
    from noiseward.methods import DEFAULT_METHODS
    from noiseward.sweep.compare import report
    from noiseward.sweep.comparison import Comparison
    from noiseward.sweep.prompt_files import read_prompts

    kind, amount = task.limit
    methods = DEFAULT_METHODS if task.methods is None else split_parts(task.methods)
    prompts = read_prompts(task.prompts)
    comparison = Comparison(base, prompts, methods, kind, amount, seeds=task.seeds or SEEDS)
    if not prompts and (card := card_of(base.model)) and card.needs_prompt:
        raise typer.BadParameter("--prompts is missing; say what to draw, as in 'a duck'")
    workers.check()
    sweep = comparison.begin(Path(task.out))
    ended, stopped = run_sweep(sweep, workers, quiet=task.quiet)
    measured, outcomes = report(comparison, sweep, ended)
    if not task.quiet:
        if lines := measured.rows("1.0"):
            _print_lines(lines)
        for method, why in measured.refused.items():
            print(f"{method} does not apply: {why}")
        if stopped:
            print("stopped; the same command continues")
    print(sweep.out / "report.html")
    exit_undone(outcomes)


def _print_lines(lines: Sequence[Line]) -> None:
    """Print a table, as many columns as there is room for."""
    from rich.table import Table

    from noiseward import terminal
    from noiseward.sweep.tables import format_lines

    head, cells = format_lines(lines)
    console = terminal.console()
    shown = _fit_columns([head, *cells], console.width)
    table = Table(box=None, header_style="bold")
    for place in shown:
        table.add_column(head[place], justify="left" if head[place] == "method" else "right", no_wrap=True)
    for line in cells:
        table.add_row(*(line[place] for place in shown))
    console.print(table)


def _fit_columns(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns of a table that fit into a terminal, the first ones before the last; the report has them all.

    Example:
        >>> _fit_columns([["rank", "method", "gain"], ["1", "best-of-n", "0.5"]], 20)
        [0, 1]
    """
    room, shown = width, []
    for place in range(len(lines[0])):
        room -= 2 + max(len(line[place]) for line in lines)  # a space on either side
        if room >= 0:
            shown.append(place)
    return shown
