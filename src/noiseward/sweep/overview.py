"""A batch or a comparison at a glance, from its plain files alone: what `noiseward list` says of it, without torch."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import final

from noiseward.errors import RunError
from noiseward.runs.alive import find_state
from noiseward.runs.files import read_json
from noiseward.sweep.packs import FILE, Pack, read_packs

__all__ = ["Overview", "find_sweeps", "read_overview"]

INDEX = "index.csv"
NUMBERS = ("before", "best", "gain")


@final
@dataclasses.dataclass(frozen=True)
class Overview:
    """A sweep at a glance.

    Attributes:
        packs: all of them.
        state: `done`, `running`, `failed` if some rows failed or are damaged, else `interrupted`.
        done: how many rows are done.
        means: of the numbers in `index.csv`, over rows, as far as they are there; of a batch only, for methods of a
            comparison are no one thing.
    """

    packs: tuple[Pack, ...]
    state: str
    done: int
    means: Mapping[str, float]

    @property
    def kind(self) -> str:
        """`batch` or `comparison`."""
        return "batch" if all(pack.measure is None for pack in self.packs) else "comparison"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(pack.size for pack in self.packs)

    def list(self, name: str) -> list[str]:
        """The values of an option over all packs, each once: of `prompt`, `reward` or `model`."""
        values = (getattr(pack.spec, name) for pack in self.packs)
        return list(dict.fromkeys(one for value in values for one in ((value,) if isinstance(value, str) else value)))


def find_sweeps(folder: Path) -> list[Path]:
    """The directories of batches and comparisons in a folder."""
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(folder) if os.path.exists(os.path.join(entry.path, FILE))]
    return []


def read_overview(out: Path) -> Overview:
    """Read a sweep at a glance.

    Raises:
        RunError: its list of packs is garbled, or of a newer format.
    """
    packs, index = tuple(read_packs(out)), _read_index(out / INDEX)
    running = find_state("running", out) == "running"  # an index tells of the last time that its command ended
    bad = Counter(line["run"] for line in index if line["state"] in ("failed", "damaged") and not running)
    done, refused = 0, sum(line["state"] == "refused" for line in index)
    with contextlib.suppress(OSError):
        for entry in os.scandir(out / "packs"):
            with contextlib.suppress(RunError):
                status = read_json(Path(entry.path) / "status.json")
                rows, name = len(status.get("rows", ())), f"packs/{entry.name}"
                if status.get("state") == "done" and not os.path.exists(os.path.join(entry.path, "best.safetensors")):
                    bad[name] = rows
                done += rows - bad[name] if status.get("state") == "done" else 0
    ended = "failed" if bad else "done" if done + refused >= sum(pack.size for pack in packs) else "interrupted"
    means = {}
    if all(pack.measure is None for pack in packs):
        for name in NUMBERS:
            if there := [float(line[name]) for line in index if line[name]]:
                means[name] = statistics.fmean(there)
    return Overview(packs, "running" if running else ended, done, means)


def _read_index(path: Path) -> list[dict[str, str]]:
    """The lines of an index; none where it is not written yet, or not to be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
    return lines if all(name in line for line in lines for name in ("state", "run", *NUMBERS)) else []
