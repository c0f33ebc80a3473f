"""Options as the command line takes them: what a page asked for, as a command to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from noiseward.options.option import Options, extra_of

__all__ = ["to_arguments", "to_command"]


def to_arguments(options: Options, *, leave_out: Sequence[str] = ()) -> list[str]:
    """The arguments of the command line that give these options; those with their default are left out.

    Example:
        >>> from noiseward.options.run import RunSpec
        >>> to_arguments(RunSpec(prompt="a duck", reward=("brightness", "contrast:0.5"), steps=3))
        ['a duck', '--reward', 'brightness', '--reward', 'contrast:0.5', '--steps', '3']
    """
    kind = type(options)
    found = {name: value for name, value in options.values().items() if name not in leave_out}
    given = {name: value for name, value in found.items() if value != _default(kind, name)}
    places = [name for name in given if extra_of(kind.model_fields[name]).get("argument")]
    order = sorted((name for name in given if name not in places), key=lambda name: name != "reward")
    words = [text for name in order for text in _write(kind, name, given[name])]
    first = [text for name in places for text in _write(kind, name, given[name])]
    return [*words, "--", *first] if any(text.startswith("-") for text in first) else [*first, *words]


def to_command(*words: str) -> str:
    """A command for a shell.

    Example:
        >>> to_command("noiseward", "align", "a duck")
        "noiseward align 'a duck'"
    """
    return shlex.join(words)


def _write(kind: type[Options], name: str, value: Any) -> Iterator[str]:
    flag = [] if extra_of(kind.model_fields[name]).get("argument") else [kind.flag(name)]
    if value is True:
        yield from flag
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from (*flag, f"{key}={part!r}")
    else:
        for part in (value or ["none"]) if isinstance(value, list | tuple) else [value]:
            # a value that begins like a flag must be tied to its own
            text = f"{part:g}" if isinstance(part, float) and float(f"{part:g}") == part else str(part)
            yield from [f"{flag[0]}={text}"] if flag and text.startswith("-") else [*flag, text]


def _default(kind: type[Options], name: str) -> Any:
    default = kind.model_fields[name].default
    return None if default is PydanticUndefined else default
