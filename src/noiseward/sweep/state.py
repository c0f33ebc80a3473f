"""What is on disk of a pack: how far it came, and whether its files fit together."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from noiseward.errors import RunError
from noiseward.runs.claim import is_vacant
from noiseward.runs.consistency import RunRecord, read_record
from noiseward.runs.images import check_results
from noiseward.runs.spec import matches
from noiseward.runs.store import RunFolder
from noiseward.sweep.looks import Measurements, read_looks
from noiseward.sweep.packs import Pack

__all__ = ["PackState", "inspect"]


@dataclasses.dataclass(frozen=True)
class PackState:
    """What is on disk of a pack.

    Attributes:
        name: what its run says; `waiting` where there is none, `damaged` where its files do not fit together or are not
            the run of the pack.
        run: what the run says, where that can be read.
        measurements: of a run of a comparison that is done.
        error: what does not fit.
    """

    name: str
    run: RunRecord | None = None
    measurements: Measurements | None = None
    error: str = ""


def inspect(pack: Pack, out: Path, *, closely: bool = False) -> PackState:
    """What is on disk of a pack in a sweep directory; a pack is done when all its results are there.

    Arguments:
        pack: which.
        out: the sweep directory.
        closely: look at each image, too.
    """
    folder = RunFolder(out / "packs" / pack.name)
    if not os.path.lexists(folder.path):
        return PackState("waiting")
    try:
        if not os.path.lexists(folder.path / "spec.json"):
            state = "running" if is_vacant(folder.path) else "damaged"
            return PackState(state, error=f"{folder.path} has no spec.json")
        if not matches(folder.spec(), pack.spec):
            return PackState("damaged", error=f"{folder.path} holds another run than this sweep asks for")
        if not os.path.lexists(folder.path / "status.json"):
            return PackState("running")
        run = read_record(folder)
        measurements = None
        if run.status["state"] == "done":
            check_results(folder, run, closely=closely)
            measurements = None if pack.measure is None else read_looks(folder, run, pack)
        return PackState(run.status["state"], run, measurements)
    except RunError as error:
        return PackState("damaged", error=str(error))
