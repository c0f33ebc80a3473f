"""`noiseward compare`: which method, for this model, this reward and this budget?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli.flags import Without, expand
from noiseward.cli.printing import say_loading
from noiseward.options.commands import CompareOptions, EngineOptions
from noiseward.options.parts import split_parts
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of
from noiseward.runs.check import check_names

__all__ = ["compare"]


@expand
def compare(
    task: CompareOptions,
    workers: EngineOptions,
    base: Annotated[RunSpec, Without("prompt", "method", "batch", "steps", "seconds", "nfe", "target", "watch_every")],
) -> None:
    """Run methods at equal cost on the same prompts and seeds, and rank them, with held-out rewards as a check."""
    from noiseward.methods import DEFAULT_METHODS

    methods = DEFAULT_METHODS if task.methods is None else split_parts(task.methods)
    for method in methods or (None,):
        check_names(base.replace(method=method))
    if not task.quiet:
        say_loading(base, Path(task.out))

    from noiseward import terminal
    from noiseward.cli.printing import print_json
    from noiseward.cli.sweep import describe_sweep, exit_undone, run_sweep
    from noiseward.cli.sweep_tables import print_lines
    from noiseward.sweep.compare import report
    from noiseward.sweep.comparison import Comparison
    from noiseward.sweep.prompt_files import read_prompts
    from noiseward.trackers import check_trackers

    task.check_printing()
    kind, amount = task.limit
    prompts = read_prompts(task.prompts)
    comparison = Comparison(base, prompts, methods, kind, amount, seeds=task.seeds).in_order_of(Path(task.out))
    if not prompts and (card := card_of(base.model)) and card.needs_prompt:
        raise typer.BadParameter("--prompts is missing; say what to draw, as in 'a duck'")
    workers.check()
    check_trackers(task.log)
    sweep = comparison.begin(Path(task.out))
    ended, stopped = run_sweep(sweep, workers, log=task.log, quiet=task.quiet)
    measured, outcomes = report(comparison, sweep, ended)
    if task.as_json:
        print_json(describe_sweep(sweep, outcomes, measured))
    else:
        if not task.quiet:
            if lines := measured.rows("1.0"):
                print_lines(lines, terminal.console(), note=measured.note)
            for method, why in measured.refused.items():
                print(f"{method} does not apply: {why}")
        print(sweep.out / "report.html")
    exit_undone(outcomes, stopped=stopped)
