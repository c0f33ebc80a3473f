"""All runs of a folder: what the gallery shows, tags, and a trash that gives back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, NoisewardError, RunError
from noiseward.runs.files import lock, read_json, replace_file
from noiseward.studio.jobs import Jobs
from noiseward.studio.live import Reader
from noiseward.studio.places import Places
from noiseward.studio.session import FILE as SESSION
from noiseward.studio.words import say_state

__all__ = ["SORTS", "STATES", "Entry", "Gallery"]

SORTS = {"newest": "newest", "name": "name", "largest gain": "gain", "highest reward": "best"}
"""What to sort by, as the page says it, and its name."""
STATES = {
    "any": ("any",), "waiting": ("waiting",), "running": ("running", "loading"), "finished": ("done",),
    "stopped": ("interrupted", "paused"), "cut off": ("killed",), "failed": ("failed",),
}  # fmt: skip
"""What to filter by, as the page says it, and the states that this means."""
SWEEP = "batch.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run, a session of looks, a batch, or a comparison.

    Attributes:
        path: its folder.
        kind: `run`, `looks`, or `sweep`.
        changed: when, in seconds since 1970.
        lines: what is written below its image.
    """

    path: Path
    kind: str
    changed: float
    state: str = ""
    image: Path | None = None
    prompt: str = ""
    reward: str = ""
    before: float | None = None
    best: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """By how much the reward rose; minus infinity where that is not known."""
        return -float("inf") if self.best is None or self.before is None else self.best - self.before

    @property
    def lines(self) -> list[str]:
        """What to write below the image."""
        change = "" if self.best is None or self.before is None else f"{self.before:.3g} to {self.best:.3g}"
        state = say_state(self.state)
        return [text for text in (self.prompt[:60], f"{self.reward} {change}".strip(), state) if text]


class Gallery:
    """The folder of runs.

    Arguments:
        places: of the folder.
        jobs: what is done there.
    """

    def __init__(self, places: Places, jobs: Jobs) -> None:
        self.places, self._jobs = places, jobs
        self._known: dict[Path, tuple[tuple[int, ...], Entry]] = {}

    def list(self, *, text: str = "", state: str = "any", sort: str = "newest") -> list[Entry]:
        """What there is.

        Arguments:
            text: must be in the name, the prompt, the reward or a tag.
            state: of `STATES`.
            sort: a name in `SORTS`.
        """
        tags, found = self._read_tags(), []
        for path in self.places.runs.iterdir() if self.places.runs.is_dir() else ():
            if path.name.startswith(".") or not path.is_dir():
                continue
            entry = self._find(path)
            if entry is not None:
                found.append(dataclasses.replace(entry, tags=tuple(tags.get(path.name, ()))))
        words = text.lower().split()
        chosen = [
            one
            for one in found
            if (state == "any" or one.state in STATES.get(state, (state,)))
            and all(w in " ".join([one.path.name, one.prompt, one.reward, *one.tags]).lower() for w in words)
        ]
        if sort == "name":
            return sorted(chosen, key=lambda one: one.path.name)
        if sort == "best":
            return sorted(chosen, key=lambda one: -float("inf") if one.best is None else one.best, reverse=True)
        return sorted(chosen, key=lambda one: one.gain if sort == "gain" else one.changed, reverse=True)

    def _find(self, path: Path) -> Entry | None:
        """One folder; read again only where it changed."""
        stamps = tuple(_stamp(path / name) for name in ("spec.json", "status.json", SESSION, SWEEP, "index.csv"))
        job = self._jobs.find(path)
        live = job is not None and job.is_open
        if (
            not live
            and path in self._known
            and self._known[path][0] == stamps
            and self._known[path][1].state != "running"
        ):
            return self._known[path][1]
        entry = self._read(path, stamps)
        if entry is not None:
            self._known[path] = stamps, entry
        return entry

    def _read(self, path: Path, stamps: Sequence[int]) -> Entry | None:
        changed = max(stamps) / 1e9 or time.time()  # one that waits has no files
        if (path / SWEEP).exists():
            job = self._jobs.find(path)
            image = path / "contact.png"
            state = (
                job.state
                if job is not None and job.is_open
                else "done"
                if (path / "index.csv").exists()
                else "interrupted"
            )
            return Entry(path, "sweep", changed, state, image if image.exists() else None, "batch or comparison")
        if (path / SESSION).exists():
            images = sorted((path / "looks").glob("*/*.png"))
            prompt = ""
            with contextlib.suppress(NoisewardError, KeyError):
                prompt = ", ".join(read_json(path / SESSION)["spec"]["prompt"])
            return Entry(path, "looks", changed, "done", images[-1] if images else None, prompt, "chosen by you")
        if not (path / "spec.json").exists() and self._jobs.find(path) is None:
            return None
        found = Reader(path).read(self._jobs.find(path))
        if found.spec is None:
            return None
        image = path / "best" / "00.png"
        best = found.best(0)[0] if found.steps else None
        before = found.before(0)
        prompt, reward = ", ".join(found.spec.prompt), " + ".join(found.spec.reward)
        return Entry(path, "run", changed, found.state, image if image.exists() else None, prompt, reward, before, best)

    def tag(self, names: Sequence[str], tags: Sequence[str]) -> None:
        """Replace the tags of some runs."""
        known = self._read_tags()
        for name in names:
            known[name] = sorted(set(filter(None, map(str.strip, tags))))
        known = {name: tags for name, tags in known.items() if tags}
        target = self.places.own / "tags.json"
        replace_file(target, lambda path: path.write_text(json.dumps(known, indent=1) + "\n"))

    def _read_tags(self) -> dict[str, Any]:
        try:
            return read_json(self.places.own / "tags.json")
        except RunError:
            return {}

    def delete(self, names: Sequence[str]) -> int:
        """Put runs into the trash; returns how many.

        Raises:
            ArgumentError: one is being worked on.
        """
        paths = [self.places.find(name) for name in names]
        for path in paths:
            job = self._jobs.find(path)
            if job is not None and job.is_open:
                raise ArgumentError(f"{path.name} is {job.state}; stop it first")
            try:
                with lock(path):
                    pass
            except RunError:
                raise ArgumentError(f"{path.name} is being written by another process; stop that first") from None
        trash = self.places.own / "trash" / f"{time.time_ns()}"
        for path in paths:
            trash.mkdir(parents=True, exist_ok=True)
            shutil.move(path, trash / path.name)
        return len(paths)

    def restore(self) -> list[str]:
        """Bring back what was deleted last; a name that is taken by now gets a number."""
        trash = self.places.own / "trash"
        groups = sorted(os.listdir(trash)) if trash.is_dir() else []
        if not groups:
            return []
        names = []
        for path in sorted((trash / groups[-1]).iterdir()):
            target = self.places.fresh(path.name, set())
            shutil.move(path, target)
            names.append(target.name)
        (trash / groups[-1]).rmdir()
        return names


def _stamp(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
