"""A run as it is on disk right now, read again only where it has grown.

Checksums are not looked at: what the page shows may be behind, and is written by the worker next door. `runs/record.py`
reads with all checks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import NoisewardError
from noiseward.options.run import RunSpec
from noiseward.rewards.shortfall import met_reward
from noiseward.runs.alive import find_state
from noiseward.runs.files import read_json
from noiseward.runs.spec import parse_spec
from noiseward.studio.jobs import Job, Jobs

__all__ = ["Reader", "Snapshot", "Watcher"]

RECENT = 8  # steps whose median time says how long the next ones take
ALIKE = 1.25  # factor up to which the denoiser calls of two steps are those of one kind of step


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What is known of a run.

    Attributes:
        path: its directory.
        state: one of `words.STATES`.
        spec: what was asked; None before anything is known.
        steps: the records of all steps, `Step.record()`.
        status: the content of `status.json`.
        error: why it failed.
        frames: steps whose images are kept, in order.
        remarks: what the worker warned of.
    """

    path: Path
    state: str
    spec: RunSpec | None = None
    steps: Sequence[dict[str, Any]] = ()
    status: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    frames: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it changes by itself."""
        return self.state in ("waiting", "loading", "running")

    @property
    def can_resume(self) -> bool:
        """Whether it can be continued as it is."""
        return self.state in ("interrupted", "paused", "killed", "failed") and self.spec is not None

    @property
    def rows(self) -> int:
        """How many images it has."""
        return self.spec.rows if self.spec else 0

    def title(self, row: int) -> str:
        """Prompt and seed of a row."""
        if self.spec is None:
            return ""
        prompt = (self.spec.prompt or ("",))[row // self.spec.batch]
        seed = f"seed {self.spec.seed + row % self.spec.batch}"
        return f"{prompt}, {seed}" if prompt else seed

    def before(self, row: int) -> float | None:
        """The reward of a row's start."""
        return met_reward(self.steps[0]["reward"][row]) if self.steps else None

    def best(self, row: int) -> tuple[float | None, int | None]:
        """The reward of a row's best, and its step."""
        if not self.steps:
            return None, None
        found = self.steps[-1]["found"][row]
        return met_reward(self.at(found)["reward"][row]), found

    def at(self, index: int) -> dict[str, Any]:
        """The record of a step; the last one where there is none."""
        return next((step for step in reversed(self.steps) if step["index"] == index), self.steps[-1])

    @property
    def seconds_left(self) -> float | None:
        """How long it will run at most, at the pace of the last steps; None where that is not known.

        The first steps say nothing of it: methods explore before they refine, and fresh samples are drawn to compare
        with. So the pace is that of steps which cost as many denoiser calls as the last one, and of two at least.
        """
        if self.spec is None or self.state != "running" or not self.steps:
            return None
        last, limits, left = self.steps[-1], self.spec.limits, []
        if limits["seconds"] is not None:
            left.append(limits["seconds"] - last["seconds"])
        if (pace := self.pace) is not None:
            seconds, cost = pace
            if limits["steps"] is not None:
                left.append((limits["steps"] - last["index"]) * seconds)
            if limits["nfe"] is not None and cost:
                left.append((limits["nfe"] - _cost(last["nfe"])) * seconds / cost)
        return max(min(left), 0.0) if left else None

    @property
    def pace(self) -> tuple[float, float] | None:
        """Seconds and denoiser calls of a step by now; None where two of a kind were not made yet."""
        made = self.steps[1:] if self.is_open else self.steps[1:-1]  # the last of all has no gradient
        recent = made[-RECENT - 1 :]
        gaps = [(b["seconds"] - a["seconds"], _cost(b["nfe"]) - _cost(a["nfe"])) for a, b in itertools.pairwise(recent)]
        cost = gaps[-1][1] if gaps else 0.0
        alike = list(itertools.takewhile(lambda gap: cost <= ALIKE * gap[1] and gap[1] <= ALIKE * cost, reversed(gaps)))
        return (statistics.median(seconds for seconds, _ in alike), cost) if len(alike) > 1 else None


def _cost(nfe: dict[str, int]) -> float:
    return nfe.get("forward", 0) + 2 * nfe.get("backward", 0)


class Reader:
    """Reads one run directory, what is new of it alone.

    Arguments:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps: list[dict[str, Any]] = []
        self._offset, self._inode = 0, 0
        self._known: tuple[Any, ...] = ()
        self._last: Snapshot | None = None

    def read(self, job: Job | None) -> Snapshot:
        """The run now; the same object as before where nothing has changed.

        Arguments:
            job: the last one about this run.
        """
        files = ("spec.json", "status.json", "steps.jsonl", "frames", "best/00.png", "plot.png")
        stamps = tuple(_stamp(self.path / name) for name in files)
        state = job.state if job is not None and job.kind == "run" else None
        known = (*stamps, state, job.error if job else None, job.remarks if job else ())
        if self._last is not None and known == self._known and not self._may_have_died(state):
            return self._last
        self._known, self._last = known, self._read(state, job)
        return self._last

    def _may_have_died(self, state: str | None) -> bool:
        """Whether it is said to run, and the studio's own worker is not doing it."""
        return self._last is not None and self._last.state == "running" and state != "running"

    def _read(self, state: str | None, job: Job | None) -> Snapshot:
        spec = None
        with contextlib.suppress(NoisewardError):
            spec = parse_spec({k: v for k, v in read_json(self.path / "spec.json").items() if k != "sum"}, self.path)
        if spec is None and job is not None and "spec" in job.request:
            spec = RunSpec(**job.request["spec"])
        status: dict[str, Any] = {}
        with contextlib.suppress(NoisewardError):
            status = read_json(self.path / "status.json")
        self._follow(self.path / "steps.jsonl")
        error = (job.error if job else None) or status.get("error")
        frames = sorted({int(file.name[:5]) for file in (self.path / "frames").glob("[0-9]*-00.png")})
        state, remarks = self._state(state, status), job.remarks if job else ()
        return Snapshot(self.path, state, spec, tuple(self._steps), status, error, tuple(frames), remarks)

    def _state(self, state: str | None, status: dict[str, Any]) -> str:
        if state == "waiting":
            return "waiting"
        if state == "running":
            return "running" if status.get("state") == "running" and self._steps else "loading"
        if not status:
            return state if state in ("failed", "interrupted", "paused") else "missing"
        if state == "failed" or (state == "paused" and status.get("state") == "interrupted"):
            return state
        return find_state(str(status.get("state")), self.path)

    def _follow(self, path: Path) -> None:
        """Read the lines that were added, or all where the file was replaced."""
        try:
            with open(path, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self._steps, self._offset, self._inode = [], 0, found.st_ino
                file.seek(self._offset)
                content = file.read()
        except OSError:
            self._steps, self._offset = [], 0
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                self._steps.append(json.loads(line))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class Watcher:
    """The runs that pages look at; each is read once for all of them.

    Arguments:
        jobs: what is done about them.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._readers: dict[Path, Reader] = {}
        self._lock = threading.Lock()

    def look(self, path: Path) -> Snapshot:
        """A run now; the same object where nothing has changed."""
        with self._lock:
            if len(self._readers) > 64 and path not in self._readers:
                self._readers.pop(next(iter(self._readers)))
            reader = self._readers.setdefault(path, Reader(path))
            return reader.read(self._jobs.find(path))
