"""Tables the commands share."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

__all__ = ["results"]


def results(
    prompts: Sequence[str],
    initial: Sequence[float],
    best: Sequence[float],
    probability: Sequence[float],
    index: Sequence[int] | None,
    status: Sequence[str],
) -> Table:
    """One line per row: where it started, where it got, how plausible its noise is, and why it stopped."""
    table = Table(box=None, header_style="bold")
    for title in ("row", "prompt", "reward before", "best", "P(z)", "found at step", "ended because"):
        table.add_column(
            title, justify="right" if title in ("row", "reward before", "best", "P(z)", "found at step") else "left"
        )
    for row, prompt in enumerate(prompts):
        found = "" if index is None else str(index[row])
        table.add_row(
            str(row), prompt, f"{initial[row]:.4g}", f"{best[row]:.4g}", f"{probability[row]:.2g}", found, status[row]
        )
    return table
