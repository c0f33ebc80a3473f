"""Trackers by name: `tensorboard`, `wandb`, `mlflow`, `trackio`; with a project as in `wandb:project=ducks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module

from noiseward.errors import ArgumentError, NoisewardError, choices
from noiseward.rewards.extras import import_extra
from noiseward.trackers.tracker import TrackedRun, Tracker
from noiseward.user_code import ErrorBoundary

__all__ = ["TRACKERS", "Log", "check_trackers", "list_trackers", "open_tracker"]

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow", "trackio": "Trackio"}
Log = str | Tracker | Sequence[str | Tracker]


def list_trackers(log: Log) -> list[str | Tracker]:
    """One or more trackers as a list."""
    return [log] if isinstance(log, str | Tracker) else list(log)


def check_trackers(log: Log) -> None:
    """Raise unless every tracker can be opened.

    Raises:
        ArgumentError: there is no such tracker, or it takes no such argument.
        ModelError: its package is not installed.
    """
    for one in list_trackers(log):
        if isinstance(one, Tracker):
            continue
        if not isinstance(one, str):
            raise ArgumentError(f"expected a tracker's name or a Tracker, got {type(one).__name__}")
        name, _ = _split(one)
        import_extra(name, extra=name, name=f"tracker '{name}'")


def open_tracker(tracker: str | Tracker, run: TrackedRun) -> Tracker:
    """Open a tracker for a run; one that is open already is passed through.

    Raises:
        NoisewardError: as `check_trackers`, or its library refuses: no login, no server.
    """
    if isinstance(tracker, Tracker):
        return tracker
    check_trackers(tracker)
    name, project = _split(tracker)
    kind = getattr(import_module(f"noiseward.trackers.{name}"), TRACKERS[name])
    with ErrorBoundary(f"tracker '{name}'", "when it was opened", kind=NoisewardError):
        return kind(dataclasses.replace(run, project=project or run.project))


def _split(text: str) -> tuple[str, str | None]:
    name, _, rest = text.partition(":")
    if name not in TRACKERS:
        raise ArgumentError(f"unknown tracker '{name}'; {choices(name, TRACKERS)}")
    key, _, value = rest.partition("=")
    if rest and (key != "project" or not value):
        raise ArgumentError(f"tracker '{name}' takes project=NAME, got '{rest}'")
    return name, value or None
