"""`noiseward batch`: many prompts, one command, one directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from noiseward.cli.flags import Without, expand
from noiseward.cli.printing import say_loading
from noiseward.options.commands import BatchOptions, EngineOptions
from noiseward.options.run import RunSpec
from noiseward.runs.check import check_names

__all__ = ["batch"]


@expand
def batch(task: BatchOptions, workers: EngineOptions, base: Annotated[RunSpec, Without("prompt", "batch")]) -> None:
    """Raise a reward for many prompts; asked again, continue. Ends with a table, images and a page in the directory."""
    check_names(base)
    if not (task.quiet or task.json_lines):
        say_loading(base, Path(task.out))

    from noiseward import terminal
    from noiseward.cli.sweep import exit_undone, run_sweep
    from noiseward.cli.sweep_tables import print_outcomes
    from noiseward.errors import ArgumentError
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.report import report
    from noiseward.sweep.rows import read_rows
    from noiseward.trackers import check_trackers

    if task.json_lines and task.quiet:
        raise ArgumentError("--json prints everything and --quiet nothing; leave one out")
    workers.check()
    check_trackers(task.log)
    rows = read_rows(task.prompts, base.replace(batch=task.seeds), template=task.template)
    sweep = Sweep.begin(Path(task.out), rows, size=task.pack)
    ended, stopped = run_sweep(sweep, workers, log=task.log, quiet=task.quiet, json=task.json_lines)
    outcomes = report(sweep, ended)
    if task.quiet or task.json_lines:
        print(sweep.out, file=sys.stderr if task.json_lines else sys.stdout)
    else:
        print_outcomes(outcomes, sweep.out, terminal.console())
    exit_undone(outcomes, stopped=stopped)
