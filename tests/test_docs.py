"""Pages whose examples are run, in order and in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ["cost.md", "guards.md", "own-method.md", "python.md", "rewards.md"]


def examples(text: str) -> list[tuple[int, str]]:
    """The Python blocks of a page, with the lines they begin at."""
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: block.start(1)].count("\n") + 1, block[1]) for block in blocks]


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    found, names = examples(text), {"__name__": "example"}
    assert len(found) == text.count("```python") > 0
    for line, code in found:
        exec(compile("\n" * (line - 1) + code, str(DOCS / page), "exec"), names)  # errors name the page's own lines


def test_examples_are_found_with_their_lines():
    assert examples("a\n```python\nx = 1\ny = 2\n```\n```\nno\n```\n") == [(3, "x = 1\ny = 2\n")]
