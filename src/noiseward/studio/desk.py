"""What all tabs of a page share: the folder, the jobs, and what each open page looks at."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError
from noiseward.options.run import RunSpec
from noiseward.runs.check import check_names, list_paths
from noiseward.studio.jobs import Job, Jobs
from noiseward.studio.live import Watcher
from noiseward.studio.places import Places
from noiseward.studio.session import FILE as SESSION

__all__ = ["VIEWS", "Desk", "View"]

VIEWS = 1000  # open pages that are remembered


@dataclasses.dataclass
class View:
    """What one open page looks at.

    Attributes:
        run: the run on the right; None for none yet.
        row: which of its images.
        session: the looks of the tab on choosing.
        sweep: the batch or comparison.
        seen: what each part of the page has shown, by its name.
        is_open: false once the page was closed, which ends its stream.
    """

    run: Path | None = None
    row: int = 0
    session: Path | None = None
    sweep: Path | None = None
    seen: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_open: bool = True


class Desk:
    """One folder of runs, its jobs, and the open pages.

    Arguments:
        places: of the folder.
        jobs: its queue.
        allow_code: whether the page may write functions, which are run.
        is_local: whether only this machine can reach the page; others may not name files that are run or read.
    """

    def __init__(self, places: Places, jobs: Jobs, *, allow_code: bool = False, is_local: bool = True) -> None:
        self.places, self.jobs = places, jobs
        self.allow_code, self.is_local = allow_code and is_local, is_local
        self.watcher = Watcher(jobs)
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()

    def view(self, key: str | None) -> View:
        """What a page looks at; one that is new, or was loaded again, looks at what runs, or ran last."""
        with self._lock:
            if key not in self._views:
                while len(self._views) >= VIEWS:
                    self._views.pop(next(iter(self._views)))
                self._views[key or ""] = View(run=self._newest())
            return self._views[key or ""]

    def forget(self, key: str | None) -> None:
        """Let go of a page that was closed."""
        with self._lock:
            view = self._views.pop(key or "", None)
        if view is not None:
            view.is_open = False

    def show(self, key: str | None, path: Path) -> str:
        """Have a page look at a run, a session or a sweep; returns the id of the tab that shows it."""
        view = self.view(key)
        if (path / SESSION).exists():
            view.session = path
            return "choose"
        job = self.jobs.find(path)
        if (path / "batch.json").exists() or (job is not None and job.kind == "command" and job.is_open):
            view.sweep = path
            return "many"
        view.run = path
        return "create"

    def place(self, out: Path) -> str:
        """Where in the queue a run is, as a sentence."""
        jobs = self.jobs.list_open()
        at = next((k for k, job in enumerate(jobs) if job.out == out), 0)
        if at == 0:
            return f"started: {out.name}"
        return f"{out.name} waits in the queue at the top of the page, behind {at} other{'s' if at > 1 else ''}"

    def _newest(self) -> Path | None:
        from noiseward.runs.store import find_runs

        for job in self.jobs.list_open():
            if job.kind == "run":
                return job.out
        runs = find_runs(self.places.runs) if self.places.runs.is_dir() else []
        return runs[0].path if runs else None

    def read_spec(self, values: Mapping[str, Any]) -> RunSpec:
        """Options as a spec.

        Raises:
            ArgumentError: as `RunSpec`, with the labels of the page; or a file is named that may not be.
        """
        from noiseward.studio.forms import label_of

        spec = RunSpec.read(values, spell=label_of)
        if not self.is_local:
            _check_remote(spec, self.places)
        return spec

    def fresh(self, slug: str) -> Path:
        """A directory that neither exists nor is waited for."""
        return self.places.fresh(slug, {job.out.name for job in self.jobs.list_open()})

    def begin(self, spec: RunSpec) -> Path:
        """Put a new run into the queue; returns its directory.

        Raises:
            ArgumentError: there is no such reward or method, or no such file of code.
        """
        check_names(spec)
        out = self.fresh(spec.slug)
        self.jobs.submit("run", out, spec=spec.plain())
        return out

    def resume(self, out: Path, **more: str) -> Job:
        """Put a run into the queue again, perhaps with a larger budget."""
        known = self.jobs.find(out)
        if known is not None and known.is_open:
            return known
        request = {} if known is None or "spec" not in known.request else {"spec": known.request["spec"]}
        return self.jobs.submit("run", out, **request, more=more)


def _check_remote(spec: RunSpec, places: Places) -> None:
    """Raise `ArgumentError` if a spec names a file of this machine that is neither uploaded nor of a run.

    Files of code are refused wherever they are.
    """
    texts = [spec.model, spec.method or "", spec.lora or "", spec.ip_adapter or "", str(spec.controlnet or "")]
    for text in [*texts, *spec.reward, *(spec.watch or ())]:
        plain = re.sub(r"https?://", "", text)
        if ".py" in plain or "\\" in plain or re.search(r"(^|[=:,])\s*(\.|/|~|file:)", plain):
            raise ArgumentError(f"'{text[:60]}' names a file of the server, which only its own machine may do")
    from gradio.utils import get_upload_folder

    folders = [places.runs.resolve(), Path(get_upload_folder()).resolve()]
    for path in list_paths(spec):
        if not any(folder in Path(path).expanduser().resolve().parents for folder in folders):
            raise ArgumentError(f"'{path[:60]}' is not among the runs, and was not uploaded; upload it")
