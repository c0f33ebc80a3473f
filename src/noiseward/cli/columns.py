"""Tables that fit a terminal: numbers are never cut, and names that other commands need only where one has no room.

Other text is as long as there is room, and columns are left out where that is not enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_table"]

LEAST = 12  # characters of a text that may be cut
PAD = 2


def print_table(
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    console: Console,
    *,
    left: Collection[str] = (),
    wrap: Collection[str] = (),
    cut: Collection[str] = (),
    drop: Iterable[str] = (),
) -> None:
    """Print a table.

    Arguments:
        head: titles of the columns.
        lines: cells.
        console: where to print.
        left: columns of text; the others are numbers, on the right. Text wider than the terminal is cut.
        wrap: columns whose cells may be broken into several lines where the terminal is narrow.
        cut: columns whose cells may be cut there.
        drop: columns that may be left out there, the first ones first.
    """
    from rich.cells import cell_len
    from rich.table import Table

    cells = [[" ".join(cell.split()) for cell in line] for line in lines]
    columns = zip(head, zip(head, *cells, strict=True), strict=True)
    widths = {title: max(map(cell_len, column)) for title, column in columns}
    cut = [*(one for one in left if widths.get(one, 0) > console.width and one not in (*cut, *wrap)), *cut]
    least = {title: min(width, LEAST) if title in (*cut, *wrap) else width for title, width in widths.items()}
    shown = list(head)
    for title in drop:
        if sum(least[one] + PAD for one in shown) - PAD > console.width:
            shown.remove(title)
    room = console.width - sum(least[title] + PAD for title in shown) + PAD
    for title in cut:
        widths[title] = min(widths[title], least[title] + max(room, 0))
        room -= widths[title] - least[title]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in shown:
        fixed = {} if title in wrap else {"no_wrap": True, "min_width": widths[title]}
        table.add_column(title, justify="left" if title in left else "right", overflow="fold", **fixed)
    for line in cells:
        row = {
            title: _shorten(cell, widths[title]) if title in cut else cell
            for title, cell in zip(head, line, strict=True)
        }
        table.add_row(*(row[title] for title in shown))
    console.print(table)


def _shorten(text: str, width: int) -> str:
    """As much of a text as fits."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
