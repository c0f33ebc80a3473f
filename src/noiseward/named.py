"""Parts by name, as the command line and the run spec write them: `hybrid2:samples=16,scale=0.05`.

    NAME                         the part with its defaults
    NAME:VALUE                   its first argument
    NAME:KEY=VALUE,KEY=VALUE     arguments by name; a first argument may stand before them

A value is read as what the argument's default is: a whole number, a number, true or false, or a word. Where there is no
default, or None, it is any of these but a word, or `none`.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noiseward.errors import ArgumentError, choices

__all__ = ["literal", "parse", "split"]

_WORDS = {"true": True, "false": False, "none": None}


def parse(text: str, parts: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """The part a text stands for.

    Arguments:
        text: see the module.
        parts: what can be named, and the class or function that makes it.
        what: what it is, for messages: `estimator`, say.

    Raises:
        ArgumentError: no such name, argument or value; the message names what there is.

    Example:
        >>> def power(base: float = 1.0, *, to: int = 2):
        ...     return base**to
        >>> parse("power:3", {"power": power}, "function"), parse("power:3,to=3", {"power": power}, "function")
        (9.0, 27.0)
        >>> parse("power:exponent=3", {"power": power}, "function")
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: function 'power' has no argument 'exponent'; available: base, to
    """
    name, mark, rest = (part.strip() for part in text.partition(":"))
    if name not in parts:
        raise ArgumentError(f"unknown {what} '{name}'; {choices(name, parts)}")
    make = parts[name]
    known = inspect.signature(make).parameters
    first = next((key for key, one in known.items() if one.kind is not one.KEYWORD_ONLY), None)
    given: dict[str, Any] = {}
    for number, piece in enumerate(rest.split(",") if mark else ()):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals:
            if number > 0 or first is None:
                raise ArgumentError(f"'{piece}' in {what} '{text}' given: KEY=VALUE wanted, {_taken(known)}")
            key, value = first, key
        if key not in known:
            hint = choices(key, known) if known else "it takes none"
            raise ArgumentError(f"{what} '{name}' has no argument '{key}'; {hint}")
        if key in given:
            raise ArgumentError(f"{what} '{text}' gives '{key}' twice: give it once")
        given[key] = _read(value, known[key].default, f"'{key}={value}' in {what} '{text}' given")
    missing = [key for key, one in known.items() if one.default is one.empty and key not in given]
    if missing:
        raise ArgumentError(f"{what} '{text}' lacks {', '.join(missing)}: give it as in '{name}:{missing[0]}=1'")
    return make(**given)


def split(texts: Sequence[str]) -> tuple[str, ...]:
    """Parts with commas between: a piece that is only KEY=VALUE belongs to the one before.

    Example:
        >>> split(["dno:lr=0.05,clip", "reno"]), split(["lgd:votes=3,scale=2,fk"])
        (('dno:lr=0.05', 'clip', 'reno'), ('lgd:votes=3,scale=2', 'fk'))
    """
    found: list[str] = []
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        if found and "=" in piece.partition(":")[0]:
            found[-1] += f",{piece}"
        elif piece:
            found.append(piece)
    return tuple(found)


def literal(text: str) -> Any:
    """A Python literal, where a text is one; else the text.

    Example:
        >>> literal("0.7"), literal("[1, 2]"), literal("a cat"), literal("(" * 500)[:3]
        (0.7, [1, 2], 'a cat', '(((')
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in what is no literal
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _read(value: str, default: Any, given: str) -> Any:
    """A value of the kind of a default."""
    plain: Any = _WORDS.get(value.lower(), value)
    if isinstance(default, bool):
        if not isinstance(plain, bool):
            raise ArgumentError(f"{given}: true or false wanted")
        return plain
    if isinstance(default, str):
        return value
    if isinstance(default, int):
        return _number(plain, int, f"{given}: a whole number wanted")
    if isinstance(default, float):
        return _number(plain, float, f"{given}: a number wanted")
    if not isinstance(plain, str):
        return plain
    try:
        return int(plain)
    except ValueError:
        return _number(plain, float, f"{given}: a number, true, false or none wanted")


def _number(value: Any, kind: Callable[[str], Any], message: str) -> Any:
    try:
        return kind(value) if isinstance(value, str) else kind("no number")
    except ValueError:
        raise ArgumentError(message) from None


def _taken(known: Mapping[str, Any]) -> str:
    return f"KEY one of {', '.join(known)}" if known else "but it takes no arguments"
