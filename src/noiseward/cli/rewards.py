"""`noiseward rewards`: what --reward takes."""

from __future__ import annotations

__all__ = ["rewards"]


def rewards() -> None:
    """List the rewards: what each measures, its range, and whether it has a gradient."""
    from rich.console import Console
    from rich.table import Table

    from noiseward.rewards import ENTRIES

    table = Table(box=None, header_style="bold")
    for title in ("reward", "measures", "range", "gradient"):
        table.add_column(title)
    for name, entry in ENTRIES.items():
        table.add_row(name, entry.measures, entry.range, "yes" if entry.differentiable else "no (black box)")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "path/to/file.py:function is a reward of your own: images (B, 3, H, W) in [0, 1] to (B,); it runs that file"
    )
    console.print("http://host:port is a reward server, such as 'noiseward serve-reward NAME' on this machine")
