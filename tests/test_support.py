"""The support table is the batteries': every family and every scheduler of theirs is in it, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.families import FAMILIES
from tests.schedulers import CASES, REFUSED

PAGE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text(encoding="utf-8")


def first_cells(mark: str) -> list[str]:
    """The first cell of each line of a generated table, heads left out."""
    (text,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = {line for line, below in zip(text.splitlines(), text.splitlines()[1:], strict=False) if "| --- |" in below}
    return [line.split(" | ")[0][2:] for line in lines if line not in heads and "---" not in line]


def test_every_family_has_its_line():
    assert first_cells("families") == list(FAMILIES)


def test_every_scheduler_has_its_line():
    cells = first_cells("schedulers")
    assert len(cells) == len(CASES) + len(REFUSED)
    assert all(case.name in cell for case, cell in zip(CASES, cells, strict=False))
    assert [cell.strip("`") for cell in cells[len(CASES) :]] == list(REFUSED)
