"""Pages to look at, which need no network: one look for all reports."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.images.preview import to_data_url
from noiseward.runs.files import replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_figure", "draw_table", "escape", "inline", "write_page"]

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.15rem}.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}
th{text-align:left;font-weight:600;white-space:nowrap}td,th{padding:.35rem .6rem;border-bottom:1px solid #ddd}
td{vertical-align:middle}th button{all:unset;cursor:pointer}th button:hover{text-decoration:underline}
th[aria-sort=ascending] button::after{content:" \\25b2"}th[aria-sort=descending] button::after{content:" \\25bc"}
img{max-width:100%}td img{width:128px;max-width:30vw}.row{display:flex;flex-wrap:wrap;gap:.6rem}
figure{margin:0;max-width:100%}.row figure{width:128px}figure img{width:100%;display:block}
figcaption,.small{color:#666;font-size:13px}figcaption{padding:.15rem 0}.pair figure{width:256px}
input[type=range]{width:min(34rem,100%)}code{background:#eee;padding:.1rem .3rem;border-radius:3px}.bad{color:#a11}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td,th{border-color:#333}code{background:#2a2a2a}
figcaption,.small{color:#999}.bad{color:#f88}}
"""
SORT = """
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, k) => row.cells[k].dataset.value ?? row.cells[k].textContent.trim();
  heads.forEach((head, k) => head.firstElementChild?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = [...body.rows].sort((one, two) => {
      const a = value(one, k), b = value(two, k), x = parseFloat(a), y = parseFloat(b);
      return (isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y) * (down ? -1 : 1);
    });
    body.append(...order);
  }));
}
"""
escape = html.escape


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page.

    Arguments:
        path: of the file.
        title: as text.
        parts: HTML.
    """
    width = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{width}<title>{escape(title)}</title>\n<style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts, f"<script>{SORT}</script>"])
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    replace_file(path, lambda target: target.write_text(text, encoding="utf-8"))


def draw_table(head: Sequence[str], lines: Sequence[Sequence[str]], values: Sequence[Sequence[Any]] = ()) -> str:
    """A table that a click on a column's title sorts; cells are HTML.

    Arguments:
        head: titles of the columns.
        lines: cells.
        values: what to sort each cell by, or None for its text.

    Example:
        >>> "<th><button>a</button></th>" in draw_table(["a"], [["1"]])
        True
    """
    titles = "".join(f"<th><button>{title}</button></th>" for title in head)
    body = []
    for number, line in enumerate(lines):
        known = values[number] if values else [None] * len(line)
        cells = (
            f"<td>{cell}</td>" if value is None else f'<td data-value="{escape(str(value))}">{cell}</td>'
            for cell, value in zip(line, known, strict=True)
        )  # fmt: skip
        body.append(f"<tr>{''.join(cells)}</tr>")
    rows = "\n".join(body)
    table = f"<table class=sorted><thead><tr>{titles}</tr></thead><tbody>\n{rows}\n</tbody></table>"
    return f"<div class=wide>{table}</div>"


def draw_figure(address: str, caption: str) -> str:
    """An image with a caption, which is text."""
    return (
        f'<figure><img loading=lazy alt="" src="{escape(address)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def inline(image: Image | Path) -> str:
    """An image, or a PNG file, as the address of itself."""
    return to_data_url(image.read_bytes() if isinstance(image, Path) else image)
