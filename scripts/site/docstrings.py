"""Docstrings for the site: Sphinx roles become links, formulas MathML, public names in backticks links."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import griffe
from latex2mathml.converter import convert

__all__ = ["Docstrings", "to_markdown"]

TABLE = Path(__file__).resolve().parents[2] / "src" / "noiseward" / "__init__.pyi"
HOMES = {
    name.name: f"{line.module}.{name.name}"
    for line in ast.parse(TABLE.read_text(encoding="utf-8")).body
    if isinstance(line, ast.ImportFrom)
    for name in line.names
}
BLOCK = re.compile(r"^( *)\.\. math::([^\n]*)\n((?:(?:\1 +[^\n]*)?\n)*(?:\1 +[^\n]*)?)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`", re.DOTALL)
ROLE = re.compile(r":(?:func|class|meth):`~?([^`]+)`")
NAME = re.compile(r"(?<![`\[\w])`([A-Za-z]\w*)`(?![`\]\w])")


def to_markdown(text: str, *, own: str = "") -> str:
    """A docstring as Markdown.

    Arguments:
        text: the docstring, without its indentation.
        own: the public name that it belongs to, which does not link to itself.
    """

    def link(name: str) -> str:
        return f"[`{name}`][{HOMES[name]}]" if name in HOMES and name != own else f"`{name}`"

    parts = re.split(r"(```.*?```|^ *>>>.*?(?=\n\n|\Z))", text, flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):  # the others are code
        part = BLOCK.sub(lambda block: _display(block[1], f"{block[2]}\n{block[3]}"), parts[i])
        part = INLINE.sub(lambda formula: _formula(formula[1], "inline"), part)
        part = ROLE.sub(lambda role: link(role[1]), part)
        parts[i] = NAME.sub(lambda name: link(name[1]), part)
    return re.sub(r"^Example:$", "Examples:", "".join(parts), flags=re.MULTILINE)


def _display(indent: str, formula: str) -> str:
    return f"\n{indent}{_formula(textwrap.dedent(formula).strip(), 'block')}\n\n"


def _formula(formula: str, display: str) -> str:
    """MathML on one line, in a span where it is inline: Markdown takes a line that begins with <math> for a block."""
    text = re.sub(r"(?:\\[Bb]ig)?\\\|", "\u2016", " ".join(formula.split()))  # which the converter lacks
    if "&" in text and "begin{" not in text:
        text = rf"\begin{{align*}}{text}\end{{align*}}"
    mathml = convert(text, display=display).replace("\n", "").replace("*", "&#x2a;").replace("_", "&#x5f;")
    return mathml if display == "block" else f"<span>{mathml}</span>"


class Docstrings(griffe.Extension):
    """Rewrite each docstring when it is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, own=obj.name)
