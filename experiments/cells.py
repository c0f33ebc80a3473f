"""An experiment cut into cells, each stored on disk when it is done: interrupted and started again, it continues.

Cells are tasks of the queue in `noiseward.sweep`: `--engine ray --workers 2` runs them on two processes. They are in
`.experiments/NAME/`, which git ignores; a cell is found again by its key.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from noiseward import terminal
from noiseward.options.commands import EngineOptions
from noiseward.sweep.engine import Beat, Context
from noiseward.sweep.ray import open_engine
from noiseward.sweep.view import Tally, show

CELLS = Path(__file__).resolve().parents[1] / ".experiments"
Label = TypeVar("Label", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A part of an experiment, a task of the queue.

    Arguments:
        key: everything its result depends on, as plain data.
        compute: gives the result, plain data.
        folder: where the result is stored; `compute` below sets it.
    """

    key: Mapping[str, Any]
    compute: Callable[[], Any]
    folder: Path = CELLS
    size = 1
    tries_candidates = False

    @property
    def name(self) -> str:
        """A short name for the key."""
        return hash_key(self.key)

    @property
    def path(self) -> Path:
        """Of the result."""
        return self.folder / f"{self.name}.json"

    def run(self, context: Context) -> Iterator[Beat]:
        """Compute the result, and store it."""
        try:
            content = json.dumps({"key": self.key, "result": self.compute()})
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_text(content)
            partial.replace(self.path)
            yield Beat(self.name, "done", 1)
        except Exception as error:
            traceback.print_exc()
            yield Beat(self.name, "failed", 1, error=f"{type(error).__name__}: {error}")


def compute(
    name: str, cells: Mapping[Label, Cell], *, root: Path | None = None, engine: EngineOptions | None = None
) -> dict[Label, Any]:
    """The results of some cells by label, computed now or before.

    Arguments:
        name: of the experiment.
        cells: by label.
        root: where cells are stored; default: `CELLS`.
        engine: where they are computed; default: this process.

    Raises:
        RuntimeError: a cell failed.
    """
    tasks = {label: dataclasses.replace(cell, folder=(root or CELLS) / name) for label, cell in cells.items()}
    todo = {task.name: task for task in tasks.values() if not task.path.exists()}
    if todo:
        tally = Tally(len(tasks), sum(task.path.exists() for task in tasks.values()))
        ids = {task.name: str(label) for label, task in tasks.items()}
        with open_engine(engine or EngineOptions()) as where:
            beats = list(show(where.run(list(todo.values())), tally, console=terminal.console(stderr=True), ids=ids))
        if failed := [beat for beat in beats if beat.state == "failed"]:
            raise RuntimeError(f"{len(failed)} cells failed, first {ids[failed[0].pack]}: {failed[0].error}")
    return {label: json.loads(task.path.read_text())["result"] for label, task in tasks.items()}


def hash_key(key: Mapping[str, Any]) -> str:
    """A short name for plain data."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=10).hexdigest()


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options of the engine to a command."""
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: one process per worker")
    parser.add_argument("--workers", type=int, help="with ray: at most this many")


def read_engine(arguments: argparse.Namespace) -> EngineOptions:
    """The engine that a command asks for."""
    engine = EngineOptions(engine=arguments.engine, workers=arguments.workers)
    engine.check()
    return engine
