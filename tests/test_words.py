"""The docs are written as the field writes: words that readers stumble over are not in them.

Pages and tables that a script writes are left out; their words are those of the script.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"commands.md", "options.md", "paper.md"}
PAGES = [
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in GENERATED),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
]
TABLE = re.compile(r"<!-- (?!end|not run)[^>]*-->\n.*?<!-- (?:end|table: end)[^>]*-->", re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)
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
    r"told": "say what is meant: by default, an error",
    r"go(?:es|ing)? on|gone on|went on": "continue",
    r"needs? not|worth its trouble|at hand|hungr\w+|yardsticks?|there stands": "plain words",
    r"licence|colour\w*|behaviour|grey|whilst|learnt": "American spelling",
}


def find(text: str) -> list[str]:
    """The words in a page that should not be there, each with its line and what to write."""
    blank = TABLE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    blank = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), blank)
    return [
        f"line {blank[: match.start()].count(chr(10)) + 1}: {match[0]!r} ({instead})"
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"\b(?:{pattern})\b", blank, re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_word_that_readers_stumble_over(page):
    assert not find(page.read_text(encoding="utf-8"))


def test_words_are_found_in_prose_alone():
    assert find("a\nBeside it.\n") == ["line 2: 'Beside' (next to, in addition to)"]
    assert not find("`beside` [a](pictures/a.png)\n```\nwanted\n```\n<!-- cards -->\na move\n<!-- end -->\n")
