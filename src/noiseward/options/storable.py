"""What a run directory can hold: plain data that JSON gives back as it was.

A value that cannot be written must be refused before anything is made; one that comes back as another, such as a dict
with numbers for keys, would make a resumed run another run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from noiseward.errors import ArgumentError, shorten

__all__ = ["check_storable"]

DEEPEST = 32  # levels of lists and dicts in one another


def check_storable(fields: Mapping[str, Any], *, spell: Callable[[str], str] = str) -> None:
    """Raise `ArgumentError` unless plain data can be written as JSON and read back as the same, but for tuples.

    `spell` writes the name of a field in error messages.

    Example:
        >>> check_storable({"call": {"height": {1}}})
        Traceback (most recent call last):
            ...
        noiseward.errors.ArgumentError: call.height must be text, a finite number, true, false, none, or a list or dict
        of these, got a set, {1}
    """
    for name, value in fields.items():
        if value is None or (type(value) is str and value.isascii()):
            continue  # most of what there is: a batch has many
        found = _unstorable(value, name, DEEPEST)
        if found is not None:
            where, what = found
            expected = "text, a finite number, true, false, none, or a list or dict of these"
            expected = "a finite number below 1e300" if isinstance(value, int | float) else expected
            raise ArgumentError(f"{spell(name) if where == name else where} must be {expected}, got {what}")


def _unstorable(value: Any, where: str, depth: int) -> tuple[str, str] | None:
    """The first part of a value that JSON cannot hold: where it is, and what."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        odd = next((c for c in value if "\ud800" <= c <= "\udfff"), None)
        return None if odd is None else (where, f"text with half a character, {shorten(ascii(odd))}: is it UTF-8?")
    if isinstance(value, int | float):
        return None if abs(value) < 1e300 else (where, str(value) if isinstance(value, float) else "a larger one")
    if depth == 0:
        return where, f"more than {DEEPEST} levels of these"
    if isinstance(value, list | tuple):
        parts = ((f"{where}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, dict):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            return where, f"a dict with a key that is no text, {shorten(repr(odd), 60)}"
        parts = ((f"{where}.{key}", part) for key, part in value.items())
    else:
        return where, f"a {type(value).__name__}, {shorten(repr(value), 60)}"
    return next((found for name, part in parts if (found := _unstorable(part, name, depth - 1)) is not None), None)
