"""What a shell completes: names of rewards, methods, models and runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from noiseward.options.task import IMAGES

__all__ = ["COMPLETERS", "RunArgument", "ShownArgument", "complete_runs"]

_IMAGES = ("/", ".png", ".jpg", ".jpeg", ".webp")


def _begin(names: Iterator[str] | list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _complete_rewards(incomplete: str) -> list[str]:
    from noiseward.rewards.catalog import ENTRIES, list_installed

    return _begin([*ENTRIES, *list_installed()], incomplete)


def _complete_watch(incomplete: str) -> list[str]:
    return _begin(["none", *_complete_rewards("")], incomplete)


def _complete_methods(incomplete: str) -> list[str]:
    from noiseward.methods import METHODS

    before, comma, last = incomplete.rpartition(",")  # compare takes several
    return [f"{before}{comma}{name}" for name in _begin(list(METHODS), last)]


def _complete_models(incomplete: str) -> list[str]:
    from noiseward.pipelines.cards import load_cards

    return [*_begin(list(load_cards()), incomplete), *_complete_folders(incomplete, "model_index.json")]


def _complete_schedulers(incomplete: str) -> list[str]:
    from noiseward.pipelines.cards import load_schedulers

    return _begin(list(load_schedulers()), incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Run directories, and those of batches and comparisons; those in `runs` where nothing is typed yet."""
    found = _complete_folders(incomplete, "spec.json", "batch.json")
    return found or ([] if incomplete else _complete_folders("runs/", "spec.json", "batch.json"))


def _complete_folders(incomplete: str, *files: str) -> list[str]:
    """Folders that hold one of some files, and those on the way to one."""
    parent = os.path.dirname(incomplete)
    found = []
    try:
        entries = sorted(os.scandir(parent or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in entries:
        path = os.path.join(parent, entry.name)
        if path.startswith(incomplete) and entry.is_dir() and not entry.name.startswith("."):
            found += [path] if any(os.path.exists(os.path.join(path, file)) for file in files) else []
    return found


RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        autocompletion=complete_runs,
        help="A run directory, or that of a batch or a comparison.",
    ),
]

ShownArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        autocompletion=complete_runs,
        help="A run directory, that of a batch or a comparison, or an image of one of these.",
    ),
]


def _complete_files(incomplete: str) -> list[str]:
    """Images, and folders on the way to one."""
    parent = os.path.dirname(incomplete)
    try:
        entries = sorted(os.scandir(parent or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    paths = [(os.path.join(parent, one.name), one.is_dir()) for one in entries if not one.name.startswith(".")]
    found = [f"{path}/" if is_folder else path for path, is_folder in paths]
    return [path for path in _begin(found, incomplete) if path.lower().endswith(_IMAGES)]


COMPLETERS: dict[str, Callable[[str], list[str]]] = {
    "reward": _complete_rewards,
    "watch": _complete_watch,
    "method": _complete_methods,
    "methods": _complete_methods,
    "model": _complete_models,
    "scheduler": _complete_schedulers,
    **dict.fromkeys(IMAGES, _complete_files),
}
"""By option."""
