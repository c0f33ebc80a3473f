"""What came out of a run, as `align` ends with and `show` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from noiseward.loop.budget import Status
from noiseward.loop.panel import find_hacking
from noiseward.loop.solution import describe_stall
from noiseward.noise.typicality import ADVICE, SUSPECT

if TYPE_CHECKING:
    from rich.console import Console

    from noiseward.runs import RunFolder

__all__ = ["report"]

PICTURES = ("initial", "best", "pareto", "strip.png", "plot.png")


def report(folder: RunFolder, console: Console) -> None:
    """Print a line per row (where it started and got, how plausible its noise is), why rows ended, the pictures."""
    from noiseward.runs.consistency import told

    said = told(folder)
    spec, status, steps = said.spec, said.status, said.steps
    prompts = [prompt for prompt in spec.prompt or ("",) for _ in range(spec.batch)]
    watched = [step for step in steps if step.get("watched")]
    panel = list(watched[0]["watched"]) if watched else []
    table = _table("row", "prompt", "reward before", "best", "P(z)", "at step", "ended by")
    beside = _table("row", *panel)
    by_index = {step["index"]: step for step in steps}
    for row, (prompt, best, found) in enumerate(zip(prompts, status["best"], status["found"], strict=True)):
        before, likely = steps[0]["reward"][row], by_index[found]["probability"][row]
        ended = status["rows"][row].lower()
        near = [
            step["watched"] for step in watched if step["index"] <= found
        ]  # at the best, or the last watched before
        table.add_row(str(row), prompt, f"{before:.4g}", f"{best:.4g}", f"{likely:.2g}", str(found), ended)
        beside.add_row(str(row), *(f"{near[0][name][row]:.4g} -> {near[-1][name][row]:.4g}" for name in panel))
    console.print(table)
    if panel:
        console.print("looking on, not climbed:", highlight=False)
        console.print(beside)
    for ended in dict.fromkeys(status["rows"]):
        console.print(f"{ended.lower()}: {Status[ended].value}", highlight=False)
    for row, (strict, aspect) in enumerate(zip(status.get("strict", []), status.get("suspect", []), strict=True)):
        if strict < SUSPECT:
            console.print(f"row {row}: strict P(z) {strict:.1g} ({aspect}): {ADVICE}", highlight=False, soft_wrap=True)
    for row in range(len(prompts)):
        if note := describe_stall(steps, row):
            console.print(f"row {row}: {note}", highlight=False, soft_wrap=True)
        if said := find_hacking(steps, row):
            console.print(f"row {row}: {said}", highlight=False, soft_wrap=True)
    if status.get("dead_draws"):
        console.print(f"without effect on the picture, left alone: {', '.join(status['dead_draws'])}", highlight=False)
    nfe = steps[-1]["nfe"]
    forward, backward = nfe["forward"] + nfe["recomputed"], nfe["backward"]
    calls = f"{forward} denoiser calls forward and {backward} backward per picture"
    closing = f"{len(steps)} evaluations in {status['seconds']:.1f} s, {calls}"
    console.print(closing, highlight=False, soft_wrap=True)
    for name in PICTURES:
        if (folder.path / name).exists():
            console.print(str(folder.path / name), highlight=False, soft_wrap=True)


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in ("prompt", "ended by") else "right")
    return table
