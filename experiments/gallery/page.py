"""docs/gallery.md: its block is made from experiments/results/gallery.json and `entries.py`, and is not edited."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from experiments.gallery.entries import ENTRIES, Entry
from experiments.report import RESULTS, interval
from experiments.support import insert

__all__ = ["PAGE", "RESULT", "block", "picture", "write"]

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULT = ROOT / "docs" / "gallery.md", RESULTS / "gallery.json"
WIDTH, COMMAND = 118, 84  # of a line of text, and of one of a command, which fits its box


def picture(entry: Entry) -> Path:
    """Where the image of an entry is."""
    return ROOT / "docs" / "pictures" / f"gallery-{entry.name}.png"


def block(results: dict[str, Any]) -> str:
    """All entries that there are results of."""
    lines, group = [], ""
    for entry in ENTRIES:
        if entry.name not in results:
            continue
        if entry.group != group:
            group = entry.group
            lines += [f"## {group}", ""]
        lines += [*section(entry, results[entry.name]), ""]
    return "\n".join(lines)


def section(entry: Entry, found: dict[str, Any]) -> list[str]:
    """One entry: title, text, image, commands, numbers."""
    text = textwrap.fill(entry.text, WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = [f"### {entry.title}", "", text, "", f"![{entry.title}](pictures/{picture(entry).name})", ""]
    for run in entry.runs:
        command = run.line.format(model=f"{entry.model}.py:pipeline") if entry.model else run.line
        lines += ["    " + line for line in wrap(command)]
    lines += ["", *table(entry, found)]
    return lines


def wrap(command: str) -> list[str]:
    """A command in lines that end with a backslash where they are continued."""
    together = re.sub(r"(--[\w-]+) (?!--)", "\\1\0", command)  # an option stays with its value
    lines = textwrap.wrap(together, COMMAND, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [f"{line} \\".replace("\0", " ") for line in lines[:-1]] + [lines[-1].replace("\0", " ")]


def table(entry: Entry, found: dict[str, Any]) -> list[str]:
    """Reward before and after, tests, and cost, a line per run and seed; many seeds as their mean."""
    named = any(run.label for run in entry.runs)
    head = ["seed", f"{entry.unit} at the start", "best", "strict test", "image test", "denoiser calls of the run"]
    head = ["", *head] if named else head
    lines = []
    for run in entry.runs:
        one = found[run.name]
        cost = count(one["nfe"])
        rows = one["rows"] if len(one["rows"]) <= 4 else [mean(one["rows"])]
        for row in rows:
            tests = [share(row[name]) for name in ("strict", "image")]
            cells = [str(row["seed"]), number(row["before"]), number(row["best"]), *tests, cost]
            lines.append([run.label, *cells] if named else cells)
    text = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)]
    for run in entry.runs:
        for name, pairs in found[run.name]["watched"].items():
            if name in run.line.replace(":", " ").split():  # not those that a model card watches
                first, last = (number(sum(pair[at] for pair in pairs) / len(pairs)) for at in (0, 1))
                text += ["", f"Held out, `{name}`: {first} at the start, {last} at the best."]
    return text


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Several seeds as one line."""
    known = [row["strict"] for row in rows if row["strict"] is not None]
    images = [row["image"] for row in rows if row["image"] is not None]
    return {
        "seed": f"{rows[0]['seed']} to {rows[-1]['seed']}: means, and the lowest of the test",
        "before": interval([row["before"] for row in rows])["mean"],
        "best": interval([row["best"] for row in rows])["mean"],
        "strict": min(known, default=None),
        "image": min(images, default=None),
    }


def number(value: float) -> str:
    """A number with three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def share(value: float | None) -> str:
    """A probability, where it was tested."""
    return "not tested" if value is None else f"{value:.2g}"


def count(nfe: dict[str, int]) -> str:
    """Denoiser calls per row."""
    parts = [f"{nfe['forward']} forward"]
    parts += [f"{nfe['backward']} backward"] if nfe["backward"] else []
    return ", ".join(parts)


def write() -> None:
    """Write the page from the stored results."""
    results = json.loads(RESULT.read_text(encoding="utf-8"))["results"]
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "gallery", block(results)), encoding="utf-8")
