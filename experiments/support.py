"""Which pipelines and schedulers work: the batteries of the tests, run once more and written into docs/pipelines.md.

    python -m experiments.support

What fails is in the table with its reason. Nothing is written by hand between the page's marks.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import diffusers
import torch

from experiments.report import write
from noiseward import NoisewardError
from tests import battery, schedulers
from tests.families import FAMILIES, Family

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"


def pipelines() -> Iterator[tuple[str, Family, battery.Measurement]]:
    """Every family, measured."""
    for name, family in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            yield name, family, battery.measure(family, Path(folder))


def families_table(measured: Sequence[tuple[str, Family, battery.Measurement]]) -> str:
    """One line per family."""
    head = ["family", "pipeline", "sample", "draws", "stock sample", "`generator=`", "gradient", "rows", "`align`"]
    lines = []
    for name, family, found in measured:
        if found.reason:
            lines.append([name, f"`{found.pipeline}`", "", "", f"**fails**: {found.reason}", "", "", "", ""])
            continue
        draws = f"{found.draws}" + "".join(f", {each} dead" for each in found.dead)
        if found.other:
            draws += f", {len(found.other)} of an encoder"
        lines.append([
            name, f"`{found.pipeline}`", " x ".join(map(str, family.shape)), draws, "bit for bit",
            "every draw" if found.seeded else "first draw only", f"{found.slope:.0e}", f"{found.rows:.0e}",
            f"+{found.gain:.2g}",
        ])  # fmt: skip
    return table(head, lines)


def schedulers_table() -> tuple[str, list[dict[str, object]]]:
    """One line per scheduler: those that drive a pipeline, then those that do not."""
    lines, raw = [], []
    for case in schedulers.CASES:
        try:
            found = schedulers.measure(case)
            says = ["bit for bit" if found.parity == 0 else f"**off by {found.parity:.0e}**"]
            says.append(f"{found.slope:.0e}" if found.slope < case.tolerance else f"**{found.slope:.0e}**")
        except NoisewardError as error:
            found, says = battery.Measurement(pipeline=case.name, reason=str(error)), [f"**fails**: {error}", ""]
        name = f"`{found.pipeline}`" + (f" (`{case.name}`)" if case.name != found.pipeline else "")
        name += "".join(f", {key}={value}" for key, value in case.settings.items())
        kind = "flow" if case.flow else "noise"
        lines.append([name, kind, str(found.draws), ", ".join(found.dead) or "none", *says])
        raw.append({"name": case.name, "flow": case.flow, **dataclasses.asdict(found)})
    refused = []
    for name, (_, why) in schedulers.REFUSED.items():
        try:
            schedulers.sampler(name).init(1)
            refused.append([f"`{name}`", why, "**is not refused**"])
        except NoisewardError as error:
            refused.append([f"`{name}`", why, str(error)])
        raw.append({"name": name, "refused": refused[-1][-1]})
    driven = table(["scheduler", "model of", "draws", "dead", "stock sample", "gradient"], lines)
    return f"{driven}\n\nRefused, each in one line:\n\n{table(['scheduler', 'because', 'says'], refused)}", raw


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def insert(page: str, mark: str, text: str) -> str:
    """The page with the text between a mark and its end."""
    pattern = re.compile(rf"(<!-- {mark} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
    assert pattern.search(page), f"{PAGE} has no mark '{mark}'"
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main() -> None:
    """Measure, write the page, keep the numbers."""
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    measured = list(pipelines())
    driven, raw = schedulers_table()
    page = PAGE.read_text(encoding="utf-8")
    page = insert(insert(page, "families", families_table(measured)), "schedulers", driven)
    PAGE.write_text(page, encoding="utf-8")
    well = sum(not found.reason for _, _, found in measured)
    works = sum(not each.get("reason", "") for each in raw if "refused" not in each)
    write(
        "support",
        settings={"schedulers": "3 steps, 4 for PNDM"},
        results=json.loads(json.dumps({
            "families": {name: dataclasses.asdict(found) for name, _, found in measured}, "schedulers": raw,
        })),
        verdict=f"{well} of {len(measured)} families and {works} of {len(schedulers.CASES)} scheduler settings pass; "
        f"{len(schedulers.REFUSED)} scheduler classes are refused",
    )  # fmt: skip


if __name__ == "__main__":
    main()
