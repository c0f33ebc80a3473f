"""A run directory: written step by step, readable at any instant, and enough to go on from.

    spec.json            what was asked
    env.json             versions, device, and a fingerprint of the model
    steps.jsonl          one line per step, append-only: `Step.record()`
    initial.safetensors  the first evaluation: sample, reward, penalty, value, terms
    best.safetensors     the best noise of each row, its sample, reward, value, P(z) and step
    peaks.safetensors    the same for the time each held-out reward of a panel was highest
    latest.safetensors   the noise to go on from and the optimizer's state; the rest of the loop's place as metadata
    frames/00003-00.png  a few pictures along the way: step and row
    initial/00.png ...   the pictures the run started from, one per row
    best/00.png ...      the best pictures so far
    pareto/, pareto.safetensors   the best from before a panel saw the reward being hacked, if it did
    strip.png, plot.png  the trajectory, and reward and P(z) against steps
    status.json          state, rows, step, seconds
    first/               with few steps first: their climb, a run directory of its own

*Order.* A step is written as a line of the log, then best and peaks, then its frame, then latest, then status. Files
other than the log are replaced in one move, so each is whole at any instant, and `latest` never runs ahead of the
others: whoever goes on from `latest` may repeat the last step, and finds the same again. A log whose last line was cut
short is read up to that line; lines after `latest` are dropped when the run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from noiseward import __version__, pictures
from noiseward.errors import ArgumentError, RunError
from noiseward.optimize import Step
from noiseward.runs.files import locked, read_json, replace, tensors
from noiseward.runs.spec import RunSpec
from noiseward.solution import Frames, Solution

__all__ = ["RunFolder", "find"]

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
PICTURES_EVERY = 5.0  # seconds between two writings of the best pictures
FRAMES = 24


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
            raise RunError(f"{self.path} {what}: give a new directory with --out, or 'noiseward resume' a run")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file: give a new directory with --out")
        parent = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise RunError(
                f"{self.path} cannot be written: {parent} is not writable; give another directory with --out"
            )

    def keep(
        self,
        steps: Iterable[Step],
        spec: RunSpec,
        *,
        fingerprint: str = "",
        frames: Frames | None = None,
        hold: bool = True,
    ) -> Iterator[Step]:
        """Pass steps on, each written down before the next is made. The first creates the directory.

        Arguments:
            steps: what `iterate` yields, from the first or from a place of this run on.
            spec: what was asked.
            fingerprint: of the model, for `env.json`.
            frames: those the run has already.
            hold: lock the directory; False for who holds it already.
        """
        written, frames, lock = 0.0, frames or Frames(FRAMES), contextlib.ExitStack()
        with lock:
            for step in steps:
                if not (self.path / "latest.safetensors").exists():
                    self._make()
                    if hold:
                        lock.enter_context(locked(self.path))
                    self._begin(spec, step, fingerprint)
                self._log(step)
                if bool((step.best.index == step.index).any()) or not (self.path / "best.safetensors").exists():
                    tensors(self.path / "best.safetensors", dict(vars(step.best)))
                    if time.monotonic() - written > PICTURES_EVERY and _pictured(step.best.sample):
                        self._pictures("best", step.best.sample)
                        written = time.monotonic()
                self._peaks(step)
                self._frame(step, frames)
                tensors(self.path / "latest.safetensors", *_place(step))
                self._status("running", step)
                yield step

    def finish(self, solution: Solution, state: str) -> None:
        """Write the closing pictures and the final status."""
        if _pictured(solution.sample):
            self._pictures("best", solution.sample)
            replace(self.path / "strip.png", lambda path: solution.strip().save(path, format="PNG"))
        if any(solution.verdicts):
            before = solution.best(by="pareto")
            tensors(self.path / "pareto.safetensors", dict(vars(before)))
            if _pictured(before.sample):
                self._pictures("pareto", before.sample)
        replace(self.path / "plot.png", lambda path: pictures.plot(solution.history).save(path, format="PNG"))
        rows = [status.name for status in solution.status]
        strict = {"strict": solution.strict_probability, "suspect": solution.suspect}
        self._status(state, solution.last, rows, dead_draws=list(solution.dead_draws), **strict)

    def fail(self, error: Exception) -> None:
        """Note in a directory that was begun that the run ended with an error; never raises."""
        with contextlib.suppress(RunError):
            if (self.path / "spec.json").exists():
                known = self.read("status.json") if (self.path / "status.json").exists() else {}
                self._json("status.json", {**known, "state": "failed", "error": str(error)})

    def read(self, name: str) -> dict[str, Any]:
        """One of the JSON files.

        Raises:
            RunError: it is missing or garbled.
        """
        return read_json(self.path / name)

    def spec(self) -> RunSpec:
        """What was asked."""
        return RunSpec.read(self.path / "spec.json")

    def steps(self) -> list[dict[str, Any]]:
        """Every step that was written whole."""
        records = []
        try:
            lines = (self.path / "steps.jsonl").read_text().splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise RunError(f"{self.path / 'steps.jsonl'} cannot be read ({reason}): restore it, or run again") from None
        for number, line in enumerate(lines, start=1):
            try:
                records.append(json.loads(line))
            except ValueError:
                if number < len(lines):
                    raise RunError(
                        f"{self.path / 'steps.jsonl'} is garbled in line {number}: restore it, or run again"
                    ) from None
        return records

    @property
    def first(self) -> RunFolder:
        """Where the climb on few steps is kept."""
        return RunFolder(self.path / "first")

    def clear(self) -> None:
        """Begin the log and the frames anew, where there are any."""
        if (self.path / "steps.jsonl").exists():
            self.rewrite([])
        for file in (self.path / "frames").glob("*.png"):
            file.unlink(missing_ok=True)

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replace the log."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        replace(self.path / "steps.jsonl", lambda path: path.write_text(text))

    def write_spec(self, spec: RunSpec) -> None:
        """Replace the spec: a run that goes on is asked for more."""
        self._json("spec.json", dataclasses.asdict(spec))

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be made ({error.strerror}): give another directory with --out"
            ) from None

    def _begin(self, spec: RunSpec, step: Step, fingerprint: str) -> None:
        libraries = {"noiseward": __version__, **{name: version(name) for name in LIBRARIES}}
        machine = {"python": platform.python_version(), "device": str(step.noise.device), "fingerprint": fingerprint}
        self._json("env.json", {**machine, **libraries})
        self.write_spec(spec)
        if _pictured(step.evaluation.sample):
            self._pictures("initial", step.evaluation.sample)
        evaluation = {name: getattr(step.evaluation, name) for name in ("sample", "reward", "penalty", "value")}
        terms = {f"terms.{name}": term for name, term in step.evaluation.terms.items()}
        tensors(self.path / "initial.safetensors", {**evaluation, **terms})

    def _log(self, step: Step) -> None:
        try:
            with open(self.path / "steps.jsonl", "a") as log:
                log.write(json.dumps(step.record()) + "\n")
        except OSError as error:
            raise RunError(
                f"{self.path / 'steps.jsonl'} cannot be written ({error.strerror}): free space or give another --out"
            ) from None

    def _peaks(self, step: Step) -> None:
        """Keep what was best when each held-out reward was highest, where it is highest now."""
        if any(bool((peak.index == step.best.index).any()) for peak in step.peaks.values()) and step.watched:
            parts = {f"{name}.{field}": part for name, peak in step.peaks.items() for field, part in vars(peak).items()}
            tensors(self.path / "peaks.safetensors", parts)

    def _frame(self, step: Step, frames: Frames) -> None:
        """Keep a few pictures, evenly spread; files of frames that are dropped go too."""
        if not _pictured(step.evaluation.sample):
            return
        before = {index for index, _ in frames}
        frames.add(step.index, step.evaluation.sample)
        after = {index for index, _ in frames}
        if step.index in after:
            self._pictures("frames", step.evaluation.sample, f"{step.index:05d}-")
        for gone in before - after:
            for file in (self.path / "frames").glob(f"{gone:05d}-*.png"):
                file.unlink(missing_ok=True)

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

    def _pictures(self, name: str, sample: Any, prefix: str = "") -> None:
        for row, image in enumerate(pictures.images(sample)):
            replace(self.path / name / f"{prefix}{row:02d}.png", lambda path, image=image: _saved(image, path))

    def _json(self, name: str, content: dict[str, Any]) -> None:
        replace(self.path / name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))


def find(folder: Path) -> list[RunFolder]:
    """The runs in a folder, or the packs of a batch directory, newest first."""
    if not folder.is_dir():
        raise ArgumentError(f"{folder} is no folder: give the one that holds the runs")
    specs = [*folder.glob("*/spec.json"), *folder.glob("packs/*/spec.json")]
    specs.sort(key=lambda spec: spec.stat().st_mtime, reverse=True)
    return [RunFolder(spec.parent) for spec in specs]


def _place(step: Step) -> tuple[dict[str, Any], dict[str, str]]:
    """What is needed to go on, without times: tensors, and the rest as metadata."""
    place = step.place
    tensors = {"noise": place.noise, **{f"state.{name}": part for name, part in place.state.items()}}
    rest = {
        "index": place.index,
        "status": [status.name for status in place.status],
        "nfe": dataclasses.asdict(place.nfe),
        "pace_nfe": place.pace[1],
    }
    return tensors, {"loop": json.dumps(rest)}


def _saved(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, format="PNG")


def _pictured(sample: Any) -> bool:
    return sample.ndim == 4 and sample.shape[1] in (1, 3)
