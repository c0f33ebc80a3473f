"""`noiseward show`: a run, a batch or a comparison, in numbers and images; or what an image says made it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from noiseward.cli.complete import ShownArgument
from noiseward.cli.printing import JsonFlag, print_json

if TYPE_CHECKING:
    from noiseward.runs.record import RunRecord

__all__ = ["show"]


def show(
    run: ShownArgument,
    json: JsonFlag = False,
) -> None:
    """Print the options of a run, its results, and where its images are; of an image, what made it."""
    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.errors import shorten
    from noiseward.runs.alive import find_state
    from noiseward.runs.record import read_record
    from noiseward.runs.store import RunFolder
    from noiseward.runs.summary import resume_command, summarize_run

    if os.path.isfile(run):
        _show_image(run, json=json)
        return
    if os.path.exists(run / "batch.json"):
        from noiseward.cli.sweep import show_sweep

        show_sweep(run, json=json)
        return
    folder = RunFolder(run)
    if json:
        print_json(summarize_run(folder))
        return
    record = read_record(folder)
    spec, status, steps = folder.read("spec.json"), record.status, record.steps
    console, state = terminal.console(soft_wrap=True), find_state(record.status["state"], run)
    console.print(f"{run}: {state}")
    asked = {
        name: value for name, value in spec.items() if value not in (None, {}, []) and name not in ("prompt", "format")
    }
    console.print(", ".join(f"{name} {_plain(value)}" for name, value in asked.items()))
    if "error" in status:
        console.print(f"error: {shorten(str(status['error']))}")
    if steps and "best" in status:
        _draw(run, record)
        report(record.spec, status, steps, run, terminal.console(), state=state)
    if state in ("killed", "interrupted"):
        console.print(f"continue with: {resume_command(run)}")


def _show_image(path: Path, *, json: bool) -> None:
    from noiseward import terminal
    from noiseward.images.metadata import read_metadata

    found = read_metadata(path)
    if json:
        print_json(found)
        return
    console = terminal.console(soft_wrap=True)
    for name, value in found.items():
        console.print(f"{name}: {value}")


def _draw(run: Path, record: RunRecord) -> None:
    """Draw the plot of a run, unless it has every step already."""
    from noiseward.errors import RunError
    from noiseward.loop.hacking import find_hacked
    from noiseward.runs.describe import about_spec
    from noiseward.runs.files import replace_file

    plot, log = run / "plot.png", run / "steps.jsonl"
    if plot.exists() and plot.stat().st_mtime >= log.stat().st_mtime:
        return
    from noiseward.images.plots import plot_history

    about = about_spec(record.spec)
    names = [about.title(row) for row in range(record.spec.rows)]
    image = plot_history(record.steps, hacked=find_hacked(record.steps), names=names)
    try:
        replace_file(plot, lambda path: image.save(path, format="PNG"))
    except RunError as error:  # the run may belong to another user
        print(f"noiseward: {error}", file=sys.stderr)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " + ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
