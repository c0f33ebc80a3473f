"""Results that fail a requirement: everything that is read says so, and nothing shows or averages what orders them."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest

from noiseward import Solution
from noiseward.rewards.shortfall import FAILED, is_met
from noiseward.sweep.intervals import rank

NEVER = ("--reward", "contrast", "--require", "brightness>=2", "--watch", "none", "--steps", "1", "--seed", "0")
CODE = re.compile(r"-\d+(\.\d+)?e\+?(09|9)\b|-\d{9}")  # what a sample that fails scores inside a run


def read_all(folder: Path) -> str:
    """What people read in a folder."""
    names = ("index.csv", "report.html", "report.md", "table.json")
    return "\n".join((folder / name).read_text() for name in names if (folder / name).exists())


def test_a_run_says_not_met_and_programs_read_null(run, small):
    status, out, err = run("align", "a", "--out", "one", *NEVER, *small)
    assert status == 0, err
    assert "not met" in out and "fails brightness>=2, got" in out and not CODE.search(out + err)
    (row,) = json.loads(run("show", "one", "--json")[1])["rows"]
    assert row["before"] is row["best"] is row["gain"] is None and row["step"] in (0, 1)
    (line,) = json.loads(run("list", ".", "--json")[1])
    assert line["before"] is line["best"] is line["gain"] is None
    out = run("list", ".")[1]
    assert out.count("not met") == 2 and not CODE.search(out)
    status, out, err = run("render", "one", "--num-inference-steps", "2")
    assert status == 0 and out.count("not met") == 2 and not CODE.search(out), err
    (row,) = json.loads(run("render", "one", "--num-inference-steps", "2", "--out", "two", "--json")[1])["rows"]
    assert row["best"] is row["reward"] is row["change"] is None
    assert run("export", "one", "--html", "page.html")[0] == 0
    assert not CODE.search(Path("page.html").read_text()) and "not met" in Path("page.html").read_text()
    solution = Solution.load("one")
    assert "not met -> not met" in repr(solution) and "fails brightness>=2" in repr(solution)
    assert "not met" in solution._repr_html_() and math.isnan(solution.gain.item())


@pytest.fixture
def bound(run, small):
    """A bound that the start of one seed meets and the other does not."""
    status, _, err = run(
        "align", "a", "--out", "probe", "--reward", "brightness", "--steps", "0", "--batch", "2", *small
    )
    assert status == 0, err
    values = [row["before"] for row in json.loads(run("show", "probe", "--json")[1])["rows"]]
    assert values[0] != values[1]
    return f"brightness>={sum(values) / 2:.6f}"


def test_means_of_a_batch_are_of_what_meets_the_requirements(run, small, bound):
    Path("p.txt").write_text("a\n")
    options = ("--reward", "contrast", "--require", bound, "--steps", "0", "--seeds", "2", "--watch", "none", *small)
    status, out, err = run("batch", "p.txt", "--out", "out", *options)
    assert status == 0, err
    with open("out/index.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(line["best"] == "" for line in lines) == [False, True]
    (met,) = (line for line in lines if line["best"])
    (unmet,) = (line for line in lines if not line["best"])
    assert met["missing"] == "" and unmet["missing"].startswith(f"fails {bound}, got") and unmet["gain"] == ""
    assert f"{float(met['best']):.4g}" in out and "rows that fail a requirement: 1 (index.csv, column missing)" in out
    page = Path("out/report.html").read_text()
    assert "not met" in page and f"fails {bound.replace('>', '&gt;')}" in page
    assert not CODE.search(out + err + read_all(Path("out")))
    events = [json.loads(line) for line in run("batch", "p.txt", "--out", "again", *options, "--json")[1].splitlines()]
    assert events[-1]["gain"] == [0.0] and events[-1]["batch"]["gain"] == 0.0
    status, out, _ = run("list", ".")
    assert status == 0 and not CODE.search(out)


def test_a_comparison_has_a_column_for_what_is_not_met(run, small, bound):
    options = ("--prompts", "a", "--methods", "best-of-n:samples=2,dno", "--seeds", "2", "--watch", "none")
    how = ("--reward", "contrast", "--require", "brightness>=2", "--budget", "nfe=24", *small)
    status, out, err = run("compare", *how, *options, "--out", "out")
    assert status == 0 and "not met" in out and "100%" in out and not CODE.search(out + read_all(Path("out"))), err
    assert "At the start no requirement is met." in Path("out/report.md").read_text()
    out = run("show", "out")[1]
    assert "100%" in out and not CODE.search(out)


def test_ranks_count_what_is_met_first():
    unmet = 1.5 * FAILED
    values = {"none": [unmet] * 5, "all": [0.1, 0.2, 0.3, 0.2, 0.1], "more": [0.2, 0.35, 0.4, 0.35, unmet]}
    assert rank(values, counts=is_met) == {"none": 3, "all": 2, "more": 1}


def test_without_requirements_a_reward_may_be_as_low_as_it_likes(run, small):
    status, out, err = run("align", "a", "--out", "low", "--reward", "jpeg:1e6", "--steps", "0", *small)
    assert status == 0 and "not met" not in out, err
    (row,) = json.loads(run("show", "low", "--json")[1])["rows"]
    assert row["best"] < -1000 and row["gain"] == 0
