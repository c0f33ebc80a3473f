"""The spec of a run as a file: what it was asked, with the run's id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RunError
from noiseward.methods import read_method
from noiseward.options.run import ADDED, FORMAT, RunSpec
from noiseward.runs.binding import identify, seal, unseal
from noiseward.runs.files import read_json
from noiseward.runs.formats import upgrade

__all__ = [
    "matches",
    "check_format",
    "parse_spec",
    "to_plain",
    "read_spec",
    "run_id",
    "settings_of",
    "to_text",
    "set_limits",
]

EXTENDED = ("steps", "seconds", "nfe", "memory")  # what a run that continues may be asked for differently


def read_spec(path: Path) -> RunSpec:
    """The spec in a file.

    Raises:
        RunError: it is garbled, was changed, or is of a newer format.
    """
    content = read_json(path)
    check_format(content, path)
    spec = parse_spec({name: value for name, value in content.items() if name != "sum"}, path)
    if content["format"] > 1:
        unseal(content, path)
    return spec


def parse_spec(content: Mapping[str, Any], path: Path) -> RunSpec:
    """The spec that plain data of a file hold.

    Raises:
        RunError: as `read`.
    """
    check_format(content, path)
    fields = {name: value for name, value in content.items() if name != "format"}
    try:
        spec = RunSpec(**(fields if content["format"] == FORMAT else upgrade(fields)))
    except ArgumentError as error:
        raise RunError(f"{path}: {error}; restore it, or run again") from None
    return spec if content["format"] == FORMAT else spec.from_file(content)


def to_plain(spec: RunSpec) -> dict[str, Any]:
    """A spec as plain data, in the format that it was read in."""
    if spec.origin is None:
        return {"format": FORMAT, **spec.plain()}
    return {**spec.origin, **{name: getattr(spec, name) for name in EXTENDED}}


def to_text(spec: RunSpec) -> str:
    """A spec as it is written into a file."""
    content = to_plain(spec)
    return json.dumps(seal(content) if content["format"] > 1 else content, indent=2)


def run_id(spec: RunSpec) -> str | None:
    """The id of the run that a spec asks for (see `binding.py`); None in format 1."""
    if spec.origin is None:
        return identify(spec.plain())
    return identify(spec.origin) if spec.origin["format"] > 1 else None


def set_limits(spec: RunSpec) -> RunSpec:
    """A spec with the default budget written out."""
    return spec.replace(steps=spec.limits["steps"])


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """All of a spec but its prompts and seeds, its method with all arguments."""
    plain = {name: value for name, value in spec.plain().items() if name not in ("prompt", "seed", "batch")}
    plain = {name: getattr(spec, name) for name in ADDED} | plain
    text = spec.method
    if text is not None and not text.startswith("<"):  # `<...>` is an object of Python's
        text = read_method(text).text
    return {**plain, "method": text}


def matches(spec: RunSpec, asked: RunSpec, *, besides: tuple[str, ...] = EXTENDED) -> bool:
    """Whether a run of one spec is what another asks for, what may differ and an open method aside."""
    one, other = ({**settings_of(each), "rows": (each.prompt, each.seed, each.batch)} for each in (spec, asked))
    skipped = {*besides, *(["method"] if asked.method is None else [])}
    return all(one[name] == other[name] for name in one if name not in skipped)


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Raise `RunError` unless the content of a file is of a format that this version reads."""
    written = content.get("format")
    if not isinstance(written, int) or isinstance(written, bool) or not 1 <= written <= FORMAT:
        raise RunError(f"{path} has format {str(written)[:20]}, this version reads up to {FORMAT}; update noiseward")
