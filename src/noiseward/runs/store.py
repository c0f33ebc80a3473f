"""A run directory: written step by step, readable at any instant, and enough to resume from.

    spec.json            what was asked
    env.json             versions, device, and a fingerprint of the model
    inputs/image.png ... the images that it was given (`inputs.py`)
    steps.jsonl          one line per step, append-only: `Step.record()`
    initial.safetensors  the first evaluation: sample, reward, penalty, value, terms
    best.safetensors     the best noise of each row, its sample, reward, value, P(z) and step
    peaks.safetensors    the same for the time each held-out reward of a panel was highest
    latest.safetensors   the noise to continue from and the optimizer's state; the rest of the loop's place as metadata
    frames/00003-00.png  a few images along the way: step and row
    frames/00003.safetensors   their noise, from which another run can start, where it is not too large
    initial/00.png ...   the images the run started from, one per row
    best/00.png ...      the best images so far
    pareto/, pareto.safetensors   the best from before a panel saw the reward being hacked, if it did
    strip.png, plot.png  the trajectory, and reward and P(z) against steps
    status.json          state, rows, step, seconds
    answers.jsonl        what judges answered, and why (`answers.py`)
    first/               with few steps first: their optimization, a run directory of its own

*Order.* A step is written as a line of the log, then best and peaks, then its frame, then latest, then status. Files
other than the log are replaced atomically, so each is whole at any instant, and `latest` never runs ahead of the
others: resuming from `latest` may repeat the last step, and finds the same again. A log whose last line was cut short
is read up to that line; lines after `latest` are replaced when the run is resumed.

*Binding.* Every file says whose it is and whether it was changed, and the log says which of them belong to its last
line (`binding.py`); `consistency.py` reads what belongs together, or names what does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RunError
from noiseward.options.run import RunSpec
from noiseward.runs.binding import unseal
from noiseward.runs.files import read_json, replace_file
from noiseward.runs.log import Line, read_lines
from noiseward.runs.schema import StatusFile, check, check_statuses
from noiseward.runs.spec import read_spec, run_id, to_text

__all__ = ["RunFolder", "find_runs"]

FILES = {"env.json": dict[str, str], "status.json": StatusFile}


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The directory of one run.

    Arguments:
        path: where it is, or will be.
    """

    path: Path

    def spec(self) -> RunSpec:
        """What was asked.

        Raises:
            RunError: `spec.json` is missing, garbled, or was changed.
        """
        return read_spec(self.path / "spec.json")

    def read(self, name: str) -> dict[str, Any]:
        """One of the JSON files, without its seal.

        Raises:
            RunError: it is missing or garbled, was changed, or belongs to another run.
        """
        path = self.path / name
        spec = self.spec()
        if name == "spec.json":
            return {key: value for key, value in read_json(path).items() if key != "sum"}
        content = read_json(path)
        check({key: value for key, value in content.items() if key not in ("run", "sum")}, FILES[name], path,
              rows=spec.rows)  # fmt: skip
        check_statuses(content.get("rows", []), path)
        return content if run_id(spec) is None else unseal(content, path, run=run_id(spec))

    def lines(self) -> list[Line]:
        """Every line of the log that was written whole.

        Raises:
            RunError: it is missing or garbled, was changed, or belongs to another run.
        """
        spec = self.spec()
        return read_lines(self.path / "steps.jsonl", run=run_id(spec), rows=spec.rows)

    def steps(self) -> list[dict[str, Any]]:
        """Every step that was written whole; raises as `lines`."""
        return [line.record for line in self.lines()]

    @property
    def first(self) -> RunFolder:
        """Where optimization on few steps is kept."""
        return RunFolder(self.path / "first")

    def _repr_html_(self) -> str:
        from noiseward.loop.solution import Solution

        return Solution.load(self.path)._repr_html_()

    def write_spec(self, spec: RunSpec) -> None:
        """Replace the spec, as a resumed run with a larger budget does."""
        replace_file(self.path / "spec.json", lambda path: path.write_text(to_text(spec) + "\n"))


def find_runs(folder: Path) -> list[RunFolder]:
    """The runs in a folder, or the packs of a batch directory, newest first."""
    if not os.path.isdir(folder):
        raise ArgumentError(f"{folder} is no folder; give the one that holds the runs")
    found: list[tuple[float, Path]] = []
    try:
        for parent in (folder, folder / "packs"):
            for entry in os.scandir(parent) if os.path.isdir(parent) else ():
                with contextlib.suppress(OSError):
                    found.append((os.stat(Path(entry.path) / "spec.json").st_mtime, Path(entry.path)))
    except OSError as error:
        raise RunError(f"{folder} cannot be read ({error.strerror}); give a folder that you may read") from None
    found.sort(key=lambda one: one[0], reverse=True)
    return [RunFolder(path) for _, path in found]
