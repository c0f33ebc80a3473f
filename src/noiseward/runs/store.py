"""A run directory: written step by step, readable at any instant.

    spec.json            what was asked
    env.json             versions and device
    steps.jsonl          one line per step, append-only: `Step.record()`
    latest.safetensors   the noise to go on from and the optimizer's state; the rest of the loop's state as metadata
    best.safetensors     the best noise of each row, its sample, reward, value and step
    initial/00.png ...   the pictures the run started from, one per row
    best/00.png ...      the best pictures so far
    strip.png, plot.png  the trajectory, and reward and P(z) against steps
    status.json          state, rows, step, seconds

Files other than the log are replaced by rename, so a reader never sees half of one; a log whose last line is cut short
by a crash is read up to that line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from noiseward import __version__, pictures
from noiseward.errors import ArgumentError, RunError
from noiseward.optimize import Step
from noiseward.runs.spec import RunSpec
from noiseward.solution import Solution

__all__ = ["RunFolder", "find"]

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
PICTURES_EVERY = 5.0  # seconds between two writings of the best pictures


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The directory of one run.

    Arguments:
        path: where it is, or will be.
    """

    path: Path

    def check_new(self) -> None:
        """Raise `RunError` unless a new run can be written here; writes nothing."""
        if self.path.is_dir() and any(self.path.iterdir()):
            what = "holds a run already" if (self.path / "spec.json").exists() else "is not empty"
            raise RunError(f"{self.path} {what}: give a new directory with --out")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: give a new directory with --out")
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise RunError(
                f"{self.path} cannot be written: {parent} is not writable; give another directory with --out"
            )

    def keep(self, steps: Iterable[Step], spec: RunSpec) -> Iterator[Step]:
        """Pass steps on, each written down before the next is made. The first creates the directory."""
        written = 0.0
        for step in steps:
            if step.index == 0:
                self._begin(spec, step)
            self._log(step)
            self._tensors("latest.safetensors", *_latest(step))
            if bool((step.best.index == step.index).any()):
                self._tensors("best.safetensors", dict(vars(step.best)), {})
                if time.monotonic() - written > PICTURES_EVERY and _pictured(step.best.sample):
                    self._pictures("best", step.best.sample)
                    written = time.monotonic()
            self._status("running", step)
            yield step

    def finish(self, solution: Solution, state: str) -> None:
        """Write the closing pictures and the final status."""
        if _pictured(solution.sample):
            self._pictures("best", solution.sample)
            self._replace("strip.png", lambda path: solution.strip().save(path, format="PNG"))
        self._replace("plot.png", lambda path: pictures.plot(solution.history).save(path, format="PNG"))
        rows = [status.name for status in solution.status]
        strict = {"strict": solution.strict_probability, "suspect": solution.suspect}
        self._status(state, solution.last, rows, dead_draws=list(solution.dead_draws), **strict)

    def fail(self, error: Exception) -> None:
        """Note in a directory that was begun that the run ended with an error."""
        if (self.path / "spec.json").exists():
            known = self.read("status.json") if (self.path / "status.json").exists() else {}
            self._json("status.json", {**known, "state": "failed", "error": str(error)})

    def read(self, name: str) -> dict[str, Any]:
        """One of the JSON files.

        Raises:
            RunError: it is missing or garbled.
        """
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise RunError(f"{self.path} is no run directory, it has no {name}: 'noiseward list' shows runs") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read ({error}): restore it, or run again") from None

    def steps(self) -> list[dict[str, Any]]:
        """Every step that was written whole."""
        records = []
        try:
            lines = (self.path / "steps.jsonl").read_text().splitlines()
        except OSError as error:
            raise RunError(
                f"{self.path / 'steps.jsonl'} cannot be read ({error.strerror}): restore it, or run again"
            ) from None
        for number, line in enumerate(lines, start=1):
            try:
                records.append(json.loads(line))
            except ValueError:
                if number < len(lines):
                    raise RunError(
                        f"{self.path / 'steps.jsonl'} is garbled in line {number}: restore it, or run again"
                    ) from None
        return records

    def _begin(self, spec: RunSpec, step: Step) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be made ({error.strerror}): give another directory with --out"
            ) from None
        self._json("spec.json", dataclasses.asdict(spec))
        libraries = {"noiseward": __version__, **{name: version(name) for name in LIBRARIES}}
        self._json("env.json", {"python": platform.python_version(), "device": str(step.noise.device), **libraries})
        if _pictured(step.evaluation.sample):
            self._pictures("initial", step.evaluation.sample)

    def _log(self, step: Step) -> None:
        with open(self.path / "steps.jsonl", "a") as log:
            log.write(json.dumps(step.record()) + "\n")

    def _status(self, state: str, step: Step, rows: list[str] | None = None, **more: Any) -> None:
        status = {
            "state": state,
            "step": step.index,
            "seconds": step.seconds,
            "best": step.best.reward.tolist(),
            "found": step.best.index.tolist(),
            "rows": rows or [status.name for status in step.status],
            **more,
        }
        self._json("status.json", status)

    def _pictures(self, name: str, sample: Any) -> None:
        (self.path / name).mkdir(exist_ok=True)
        for row, image in enumerate(pictures.images(sample)):
            self._replace(f"{name}/{row:02d}.png", lambda path, image=image: image.save(path, format="PNG"))

    def _tensors(self, name: str, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        from safetensors.torch import save_file

        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        self._replace(name, lambda path: save_file(plain, path, metadata=metadata))

    def _json(self, name: str, content: dict[str, Any]) -> None:
        self._replace(name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file beside its place, then put it there in one move."""
        target = self.path / name
        beside = target.with_name(f".{target.name}.new")
        try:
            write(beside)
            os.replace(beside, target)
        except OSError as error:
            raise RunError(
                f"{target} cannot be written ({error.strerror or error}): free space or give another --out"
            ) from None


def find(folder: Path) -> list[RunFolder]:
    """The runs in a folder, newest first."""
    if not folder.is_dir():
        raise ArgumentError(f"{folder} is no folder: give the one that holds the runs")
    specs = sorted(folder.glob("*/spec.json"), key=lambda spec: spec.stat().st_mtime, reverse=True)
    return [RunFolder(spec.parent) for spec in specs]


def _latest(step: Step) -> tuple[dict[str, Any], dict[str, str]]:
    """What is needed to go on, without times."""
    tensors = {"noise": step.noise if step.moved is None else step.moved}
    tensors.update({f"state.{name}": part for name, part in step.state.items()})
    rest = {
        "index": step.index,
        "moved": step.moved is not None,
        "status": [status.name for status in step.status],
        "nfe": dataclasses.asdict(step.nfe),
        "pace_nfe": step.pace[1],
    }
    return tensors, {"loop": json.dumps(rest)}


def _pictured(sample: Any) -> bool:
    return sample.ndim == 4 and sample.shape[1] in (1, 3)
