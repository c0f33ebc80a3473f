"""The files that a run was given, images and noise, kept in its directory.

`inputs/` holds a copy of each, named by the argument that it is for, and `env.json` a digest of each. A run is resumed
and replayed from the copies, whatever became of the files they were made of; one that was changed is refused. Runs of
earlier versions have no copies, and read the files again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import RunError
from noiseward.options.run import RunSpec
from noiseward.options.start import split_start
from noiseward.pipelines.arguments import takes_path
from noiseward.runs.binding import digest
from noiseward.runs.files import read_bytes, replace_file
from noiseward.runs.store import RunFolder

__all__ = ["Inputs", "list_inputs", "locate_inputs", "read_inputs", "write_inputs"]

FOLDER = "inputs"
Inputs = Mapping[str, bytes]
"""Files by their name in the folder."""


def list_inputs(spec: RunSpec) -> dict[str, Path]:
    """The files that the images and the start of a spec are read from, by the name that a copy has."""
    found: dict[str, Path] = {}

    def add(name: str, path: str) -> str:
        found[name] = Path(os.path.expanduser(path))
        return path

    if _has_files(spec):
        _replace(spec, add)
    return found


def read_inputs(spec: RunSpec) -> Inputs:
    """The contents of these files; one that cannot be read is left to the code that opens the image."""
    found: dict[str, bytes] = {}
    for name, path in list_inputs(spec).items():
        with contextlib.suppress(OSError, ValueError):
            found[name] = read_bytes(path)
    return found


def write_inputs(inputs: Inputs, path: Path) -> dict[str, str]:
    """Copy files into a run directory; returns a digest of each for its `env.json`."""
    for name, content in inputs.items():
        (path / FOLDER).mkdir(exist_ok=True)
        replace_file(path / FOLDER / name, lambda beside, content=content: beside.write_bytes(content))
    return {f"{FOLDER}/{name}": digest(content) for name, content in inputs.items()}


def locate_inputs(spec: RunSpec, folder: RunFolder) -> RunSpec:
    """A spec of a run whose images and start are the copies in its directory.

    Raises:
        RunError: one is missing, or was changed.
    """
    if not _has_files(spec) or not os.path.lexists(folder.path / "env.json"):
        return spec
    known = folder.read("env.json")

    def locate(name: str, path: str) -> str:
        if (was := known.get(f"{FOLDER}/{name}")) is None:
            return path
        copy = folder.path / FOLDER / name
        try:
            now = digest(read_bytes(copy))
        except OSError as error:
            raise RunError(f"{copy} cannot be read ({error.strerror or error}); restore it, or run again") from None
        if now != was:
            raise RunError(f"{copy} was changed since it was written (its checksum differs); restore it, or run again")
        return str(copy)

    return spec.replace(**_replace(spec, locate))


def _has_files(spec: RunSpec) -> bool:
    return spec.start is not None or any(takes_path(name) for name in spec.arguments)


def _replace(spec: RunSpec, change: Callable[[str, str], str]) -> dict[str, Any]:
    """The options of a spec that hold paths of files, with each path changed; `change` gets the name of its copy."""
    images = {name: value for name, value in spec.arguments.items() if takes_path(name)}
    changed = {name: _walk(name, value, change) for name, value in images.items()}
    own = {name: value for name, value in changed.items() if name in RunSpec.model_fields}
    if isinstance(spec.start, str):
        file, row = split_start(spec.start)
        own["start"] = change("start.safetensors", str(file)) + ("" if row is None else f":{row}")
    call = {name: changed.get(name, value) for name, value in spec.call.items()}
    return {**own, "call": call}


def _walk(name: str, value: Any, change: Callable[[str, str], str]) -> Any:
    if isinstance(value, list | tuple):
        return [_walk(f"{name}-{number}", part, change) for number, part in enumerate(value)]
    if not isinstance(value, str):
        return value
    suffix = re.fullmatch(r"\.[a-z0-9]{1,8}", Path(value).suffix.lower())
    return change(name + (suffix[0] if suffix else ""), value)
