"""Jobs of a studio: a queue, the worker that does them, and what is left to do if the server ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from noiseward.errors import RunError
from noiseward.runs.files import read_json, replace_file
from noiseward.studio.places import Places

__all__ = ["Job", "Jobs"]

ATTEMPTS = 2  # at a job by servers that were killed; then it is left to the user
KEPT = 200  # jobs that have ended and are remembered
State = Literal["waiting", "running", "done", "paused", "interrupted", "failed"]
Ended = tuple[State, str | None, Any]
"""How a job ended, why it failed, and what it found."""


@dataclasses.dataclass
class Job:
    """Something to do.

    Attributes:
        kind: `run`, `look`, `render`, `score`, or `command` for a command of its own process.
        out: the run, session or sweep that it is about.
        request: what the worker needs to know.
        state: `waiting`, `running`, then how it ended: `done`, `paused`, `interrupted`, `failed`.
        error: why it failed.
        result: what it found.
        remarks: what the worker warned of.
    """

    kind: str
    out: Path
    request: dict[str, Any]
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    state: State = "waiting"
    error: str | None = None
    result: Any = None
    remarks: tuple[str, ...] = ()
    attempts: int = 0
    pausing: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ("waiting", "running")


class Jobs:
    """The queue of one folder. All methods may be called from any thread.

    Arguments:
        places: of the folder.
        command: starts the worker.
    """

    def __init__(self, places: Places, command: tuple[str, ...] = (sys.executable, "-m", "noiseward.studio.worker")):
        self.places, self._command = places, command
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._worker: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[str] | None = None  # of a job that is a command
        self._closed = False
        self.version = 0  # grows with every change
        places.own.mkdir(parents=True, exist_ok=True)
        self._restore()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, kind: str, out: Path, **request: Any) -> Job:
        """Put a job into the queue."""
        job = Job(kind, out, {**request, "out": str(out)})
        with self._changed:
            self._jobs.append(job)
            self._note()
        return job

    def stop(self, out: Path, *, pause: bool = False) -> None:
        """Stop what is done about a run, or take it out of the queue; a run continues from there when it is resumed."""
        with self._changed:
            for job in self._jobs:
                if job.out == out and job.state == "waiting":
                    job.state = "paused" if pause else "interrupted"
                elif job.out == out and job.state == "running":
                    job.pausing = pause
                    self._interrupt(job)
            self._note()

    def cancel(self, id: str) -> Job | None:
        """Stop one job, or take it out of the queue; None if it is neither running nor waiting any more."""
        with self._changed:
            job = next((one for one in self._jobs if one.id == id and one.is_open), None)
            if job is not None and job.state == "waiting":
                job.state = "interrupted"
            elif job is not None:
                job.pausing = False
                self._interrupt(job)
            self._note()
            return job

    def move(self, id: str, by: int) -> bool:
        """Put a job that waits before (-1) or behind (1) the next one that waits; whether there was one."""
        with self._changed:
            waiting = [at for at, job in enumerate(self._jobs) if job.state == "waiting"]
            place = next((k for k, at in enumerate(waiting) if self._jobs[at].id == id), None)
            if place is None or not 0 <= place + by < len(waiting):
                return False
            one, other = waiting[place], waiting[place + by]
            self._jobs[one], self._jobs[other] = self._jobs[other], self._jobs[one]
            self._note()
            return True

    def find(self, out: Path) -> Job | None:
        """The last job about a run."""
        with self._changed:
            return next((job for job in reversed(self._jobs) if job.out == out), None)

    def list_open(self) -> list[Job]:
        """Jobs that are running or waiting, in order."""
        with self._changed:
            return [job for job in self._jobs if job.is_open]

    def wait(self, job: Job, timeout: float | None = None) -> Job:
        """Wait until a job has ended, or for some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not job.is_open or self._closed, timeout)
        return job

    def close(self) -> None:
        """Stop the worker; a run that it does can be resumed."""
        with self._changed:
            self._closed = True
            self._note()
            worker, process = self._worker, self._process
        for one in (worker, process):
            if one is not None and one.poll() is None:
                with contextlib.suppress(OSError):
                    if one is worker and one.stdin:
                        one.stdin.close()
                    else:
                        one.send_signal(2)
        for one in (worker, process):
            if one is not None:
                try:
                    one.wait(30)
                except subprocess.TimeoutExpired:
                    one.kill()
        self._thread.join(5)
        for one in (worker, process):
            if one is not None:
                _close(one)

    def _note(self) -> None:
        """Tell waiting threads, and the next server."""
        self.version += 1
        while len(self._jobs) > KEPT and not self._jobs[0].is_open:
            self._jobs.popleft()
        plain = [
            {"kind": job.kind, "out": str(job.out), "request": job.request, "attempts": job.attempts}
            for job in self._jobs
            if job.is_open and job.kind in ("run", "look", "command")
        ]
        if not self._closed:
            with contextlib.suppress(RunError):
                text = json.dumps({"jobs": plain}, indent=1)
                replace_file(self.places.own / "jobs.json", lambda path: path.write_text(text + "\n"))
        self._changed.notify_all()

    def _restore(self) -> None:
        """Queue what the last server has left."""
        file = self.places.own / "jobs.json"
        if not file.exists():
            return
        with contextlib.suppress(RunError, KeyError, TypeError):
            for one in read_json(file)["jobs"]:
                job = Job(one["kind"], Path(one["out"]), one["request"], attempts=one["attempts"])
                if job.attempts < ATTEMPTS:
                    self._jobs.append(job)

    def _run(self) -> None:
        """Do one job after the other."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or any(job.state == "waiting" for job in self._jobs))
                if self._closed:
                    return
                job = next(job for job in self._jobs if job.state == "waiting")
                job.state = "running"
                job.attempts += 1
                self._note()
            do: Callable[[Job], Ended] = self._command_of if job.kind == "command" else self._ask
            try:
                state, error, result = do(job)
            except OSError as failure:
                reason = failure.strerror or failure
                state, error, result = "failed", f"the worker could not be reached ({reason})", None
            with self._changed:
                if self._closed:
                    return  # jobs.json still names it
                state = "paused" if state == "interrupted" and job.pausing else state
                job.state, job.error, job.result = state, error, result
                self._note()

    def _ask(self, job: Job) -> Ended:
        """Have the worker do a job."""
        with self._changed:
            if self._closed:
                return "interrupted", None, None
            if self._worker is None or self._worker.poll() is not None:
                self._worker = self._spawn(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            worker = self._worker
            assert worker.stdin is not None and worker.stdout is not None
            print(json.dumps({**job.request, "id": job.id, "kind": job.kind}), file=worker.stdin, flush=True)
        for line in worker.stdout:
            event = json.loads(line)
            if event["id"] != job.id:
                continue
            if event["event"] == "ended":
                return event["state"], event["error"], event["result"]
            if event["event"] == "warned" and event["text"] not in job.remarks:
                with self._changed:
                    job.remarks = (*job.remarks, event["text"])
                    self._note()
        code = worker.wait()
        _close(worker)
        why = f"the worker ended (status {code}), perhaps for lack of memory"
        return "failed", f"{why}; {self.places.own / 'worker.log'} has what it printed", None

    def _command_of(self, job: Job) -> Ended:
        """Run a command."""
        with self._changed:
            if self._closed:
                return "interrupted", None, None
            command = (sys.executable, "-m", "noiseward", *job.request["arguments"])
            self._process = self._spawn(command, stderr=subprocess.PIPE)
            process = self._process
        assert process.stderr is not None
        lines = [line.strip() for line in process.stderr if line.strip()]
        code = process.wait()
        _close(process)
        if code == 130:
            return "interrupted", None, None
        why = lines[-1].removeprefix("noiseward: ") if lines else f"status {code}"
        return ("done", None, None) if code == 0 else ("failed", why, None)

    def _spawn(self, command: Sequence[str], **pipes: int) -> subprocess.Popen[str]:
        """Start a process that prints to the log, but for what goes through pipes.

        A Ctrl-C is for the server, which then stops the process.
        """
        with open(self.places.own / "worker.log", "a", encoding="utf-8") as log:
            printed: dict[str, Any] = {"stdout": log, "stderr": log, **pipes}
            here = {**os.environ, "NO_COLOR": "1"}
            return subprocess.Popen(command, text=True, start_new_session=True, env=here, **printed)

    def _interrupt(self, job: Job) -> None:
        if job.kind == "command" and self._process is not None:
            self._process.send_signal(2)
        elif self._worker is not None and self._worker.stdin is not None:
            with contextlib.suppress(OSError):
                print(json.dumps({"stop": job.id}), file=self._worker.stdin, flush=True)


def _close(process: subprocess.Popen[str]) -> None:
    """Let go of the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
