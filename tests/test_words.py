"""The docs are written as the field writes: words that readers stumble over are not in them.

That holds for pages that a script writes, too, and for whatever else a user may read: docstrings, help of options and
error messages. So all text of the package and of the experiments is searched, but for its examples.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
]
MODULES = [path for part in ("src", "experiments", "integrations") for path in sorted((ROOT / part).rglob("*.py"))]
CODE = re.compile(r"^```(?!text).*?^```|`[^`\n]*`|\]\([^)]*\)?", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^\s*(?:>>>|\.\.\.) .*$", re.MULTILINE)
WORDS = {
    r"ane[w]|whoeve[r]|for ever|of late|unasked|oftener": "again, anyone who, forever, recently, by default",
    r"wanted": "expected, needed",
    r"clim[b](?:s|ed|ing)?|uphill": "optimize, raise",
    r"look(?:s|ed|ing)? on": "watch, track",
    r"the bill|deare[r]|deares[t]|for the same money": "cost, expensive",
    r"beside": "next to, in addition to",
    r"beyond doub[t]": "significantly",
    r"pictures?": "image",
    r"moves?|moved|moving": "step, change",
    r"(?:for|by|to) who ": "the one who, users who",
    r"told": "say what is meant: by default, an error",
    r"nobody|somebody|anybody|everybody": "no one, someone, anyone, everyone",
    r"in the place of|(?:and|or) the like": "instead of, similar",
    r"go(?:es|ing)? on|gone on|went on": "continue",
    r"needs? not|worth its trouble|at hand|hungr\w+|yardsticks?|there stands": "plain words",
    r"licence|colour\w*|behaviour|grey|whilst|learnt": "American spelling",
}


def find(text: str) -> list[str]:
    """The words in a page that should not be there, each with its line and what to write."""
    blank = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return [
        f"line {blank[: match.start()].count(chr(10)) + 1}: {match[0]!r} ({instead})"
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", blank, re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_word_that_readers_stumble_over(page):
    assert not find(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_of_a_module_has_such_a_word(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            found += [f"{path.name}:{node.lineno}, {word}" for word in find(EXAMPLE.sub("", node.value))]
    assert not found


def test_words_are_found_in_prose_alone():
    assert find("a\nBeside it.\n") == ["line 2: 'Beside' (next to, in addition to)"]
    assert not find("`beside` [a](pictures/a.png)\n```\nwanted\n```\n")
    assert find("```text\nWhat is wanted.\n```\n"), "what a command prints is prose"
