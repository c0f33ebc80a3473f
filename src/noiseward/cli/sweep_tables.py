"""What came out of a batch or a comparison, as its command ends with and `show` prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noiseward.cli.columns import print_table
from noiseward.errors import shorten
from noiseward.loop.describe import SUSPECT
from noiseward.sweep.outcomes import count_states
from noiseward.sweep.tables import format_lines

if TYPE_CHECKING:
    from rich.console import Console

    from noiseward.sweep.measure import Line
    from noiseward.sweep.outcomes import Outcome

__all__ = ["print_lines", "print_outcomes"]


def print_outcomes(outcomes: Sequence[Outcome], out: Path, console: Console) -> None:
    """Print the outcomes, one line per prompt, and where the files are."""
    head, cells = ("id", "prompt", "rows", "before", "best", "gain", "P(z)", "state"), list[list[str]]()
    by_id, by_error = defaultdict[str, list["Outcome"]](list), defaultdict[str, dict[str, None]](dict)
    for one in outcomes:
        by_id[one.id].append(one)
        if one.error:
            by_error[one.error][one.id] = None
    for name, rows in by_id.items():
        means = [_mean([getattr(one, column) for one in rows]) for column in ("before", "best", "gain", "probability")]
        if any(one.step is not None for one in rows):
            means[:2] = [mean or "not met" for mean in means[:2]]
        cells.append([name, shorten(rows[0].prompt, 120), str(len(rows)), *means, count_states(rows)])
    drop = ("P(z)", "rows", "before", "prompt", "best", "state")
    print_table(head, cells, console, left=("id", "prompt", "state"), cut=("id", "prompt"), drop=drop)
    for error, ids in by_error.items():
        console.print(f"{', '.join(ids)}: {error}", highlight=False, soft_wrap=True)
    if missing := sum(bool(one.missing) for one in outcomes):
        console.print(f"rows that fail a requirement: {missing} (index.csv, column missing)", highlight=False)
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


def print_lines(lines: Sequence[Line], console: Console, *, note: str | None) -> None:
    """Print a table, as many columns as there is room for, and a note below it."""
    head, cells = format_lines(lines)
    print_table(head, cells, console, left=("method",), drop=head[:1:-1])
    if note:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
