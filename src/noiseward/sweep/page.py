"""Pages to look at, which need no network: one look for all reports."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noiseward.runs.files import replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_table", "escape", "inline", "write_page"]

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;"
    "background:#fff}h1{font-size:1.4rem}table{border-collapse:collapse;margin:1rem 0}th{text-align:left;"
    "font-weight:600}td,th{padding:.35rem .6rem;border-bottom:1px solid #ddd;vertical-align:middle}img{max-width:100%}"
    "td img,.small img{width:128px;max-width:22vw;image-rendering:pixelated}.small{color:#666;font-size:13px}"
    ".bad{color:#a11}@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td,th{border-color:#333}"
    ".small{color:#999}.bad{color:#f88}}"
)
escape = html.escape


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page.

    Arguments:
        path: of the file.
        title: as text.
        parts: HTML.
    """
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n<style>{STYLE}</style>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    replace_file(path, lambda target: target.write_text(text, encoding="utf-8"))


def draw_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; cells are HTML.

    Example:
        >>> draw_table(["a"], [["1"]])
        '<table><thead><tr><th>a</th></tr></thead><tbody>\\n<tr><td>1</td></tr>\\n</tbody></table>'
    """
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n{body}\n</tbody></table>"


def inline(image: Image | Path) -> str:
    """An image as the address of itself."""
    if isinstance(image, Path):
        content = image.read_bytes()
    else:
        buffer = io.BytesIO()
        image.save(buffer, format="png")
        content = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(content).decode()
