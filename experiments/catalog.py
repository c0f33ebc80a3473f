"""Which of diffusers' pipeline classes work: a small configuration of each, measured once, into docs/pipelines.md.

    python -m experiments.catalog            # all of them, about ten minutes
    python -m experiments.catalog NAME ...   # some, printed and not written
    python -m experiments.catalog --merge NAME ...   # some, written next to what was measured of the others

The configurations are in `tests/catalog`, what is measured in `tests/sweep.py`. Classes of diffusers for which there is
none are listed below the table.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import diffusers
import torch
import transformers

from experiments.report import RESULTS, write
from experiments.support import PAGE, insert, table
from tests.catalog import CASES
from tests.sweep import EXACT, Result, sweep


def classes() -> Iterator[str]:
    """Names of all pipeline classes that diffusers exports, those that need another package among them."""
    for name in dir(diffusers):
        if "Pipeline" in name and not name.startswith(("Auto", "Flax")) and "Onnx" not in name:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind = getattr(diffusers, name)
            base = diffusers.DiffusionPipeline
            needs_more = bool(getattr(kind, "_backends", ()))  # a stand-in, which says what to install
            if inspect.isclass(kind) and (needs_more or issubclass(kind, base) and kind is not base):
                yield name


def lines(swept: Sequence[Result]) -> list[list[str]]:
    """One line per class."""
    found = []
    for each in swept:
        if each.refused or each.fault:
            says = f"**{each.fault}**: {each.refused}" if each.fault else f"refused: {each.refused}"
            found.append([f"`{each.name}`", says.replace("|", "/"), "", "", "", "", ""])
            continue
        draws = f"{each.draws}" + (f", {each.dead} dead" if each.dead else "")
        draws += f", {each.other} of an encoder" if each.other else ""
        sample = " x ".join(map(str, each.shape)) + ("" if each.range == "as they are" else ", mapped")
        same = "bit for bit" if each.parity == 0 else f"to {each.parity:.0e}"
        gradient = f"{each.slope:.0e}" + ("" if each.precision == "float64" else ", float32")
        gradient += f": {each.noted}" if each.noted else ""
        given = "every draw" if each.seeded else "not every draw"
        found.append([f"`{each.name}`", sample, draws, same, given, gradient, f"{each.rows:.0e}"])
    return found


def read(kept: Mapping[str, Any]) -> Result:
    """What was measured before; numbers that were not finite are null there."""
    numbers = {name: float("nan") for name in ("parity", "slope", "rows") if kept[name] is None}
    return Result(**{**kept, **numbers, "shape": tuple(kept["shape"])})


def main(names: Sequence[str]) -> None:
    """Measure, write the page, keep the numbers."""
    merges, names = "--merge" in names, [name for name in names if name != "--merge"]
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    swept = []
    for name in names or sorted(CASES):
        swept.append(sweep(CASES[name]))
        print(" | ".join(lines(swept[-1:])[0]), flush=True)
    if names and not merges:
        return
    if merges:
        before = json.loads((RESULTS / "catalog.json").read_text(encoding="utf-8"))["results"]
        known = {name: read(each) for name, each in before.items() if name in CASES}
        swept = [each for _, each in sorted({**known, **{each.name: each for each in swept}}.items())]
    head = ["class", "sample", "draws", "stock sample", "`generator=`", "gradient", "rows"]
    missing = [name for name in classes() if name not in CASES]
    text = table(head, lines(swept)) + f"\n\nNot built here: {', '.join(f'`{name}`' for name in missing)}."
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "catalog", text), encoding="utf-8")
    driven = [each for each in swept if not each.refused and not each.fault]
    exact = sum(each.parity == 0 for each in driven)
    refused = sum(bool(each.refused) and not each.fault for each in swept)
    faults = [each.name for each in swept if each.fault]
    write(
        "catalog",
        settings={"exact": EXACT},
        results={each.name: dataclasses.asdict(each) for each in swept},
        verdict=f"{len(driven)} of {len(swept)} classes are driven, {exact} of them bit for bit; {refused} are refused "
        f"with a reason; faults: {', '.join(faults) or 'none'}; {len(missing)} classes are not built",
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
