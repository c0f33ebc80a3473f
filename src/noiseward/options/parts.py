"""Parts by name, as texts write them: `hybrid2:samples=16,scale=0.05`.

    NAME                         the part with its defaults
    NAME:VALUE                   its first argument
    NAME:KEY=VALUE,KEY=VALUE     arguments by name; a first argument may stand before them

A value may have commas between double quotes, `rubric="red, round"`. It is read as what the argument's default is: an
integer, a number, true or false, or a word. Where there is no default, or None, it is any of these but a word, or
`none`.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from noiseward.errors import ArgumentError, choices, shorten

__all__ = [
    "PartText", "build_part", "join_part", "literal", "read_assignments", "rename_arguments", "split_arguments",
    "split_commas", "split_parts",
]  # fmt: skip

_WORDS = {"true": True, "false": False, "none": None}
_RENAMED = {"concentration": ("target", "min_probability"), "annealed": ("moves", "until")}  # by part: old, new


def build_part(text: str, parts: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """The part a text stands for.

    Arguments:
        text: see the module.
        parts: what can be named, and the class or function that builds it.
        what: what it is, for messages: `estimator`, say.

    Raises:
        ArgumentError: no such name, argument or value.

    Example:
        >>> def power(base: float = 1.0, *, to: int = 2):
        ...     return base**to
        >>> [build_part(text, {"power": power}, "function") for text in ("power:3", "power:3,to=3")]
        [9.0, 27.0]
        >>> build_part("power:exponent=3", {"power": power}, "function")
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: function 'power' has no argument 'exponent'; available: base, to
    """
    name = text.partition(":")[0].strip()
    if name not in parts:
        raise ArgumentError(f"unknown {what} '{name}'; {choices(name, parts)}")
    known = inspect.signature(parts[name]).parameters
    first = next((key for key, one in known.items() if one.kind is not one.KEYWORD_ONLY), None)
    given: dict[str, Any] = {}
    for key, value in split_arguments(text, first=first, what=what):
        if key not in known:
            hint = choices(key, known) if known else "it takes none"
            raise ArgumentError(f"{what} '{name}' has no argument '{key}'; {hint}")
        if key in given:
            raise ArgumentError(f"{what} '{text}' has '{key}' twice; give it once")
        given[key] = _read(value, known[key].default, f"{what} '{name}': {key}")
    missing = [key for key, one in known.items() if one.default is one.empty and key not in given]
    if missing:
        raise ArgumentError(f"{what} '{text}' has no {', '.join(missing)}; give it as in '{name}:{missing[0]}=1'")
    try:
        return parts[name](**given)
    except ArgumentError as error:
        said = str(error)
        raise ArgumentError(f"{what} '{name}': {said}" if said.partition(" ")[0] in given else said) from None


def split_arguments(text: str, *, first: str | None, what: str) -> Iterator[tuple[str, str]]:
    """Key and value of each argument in a text; one without a key, which only the first may be, has the key `first`."""
    _, mark, rest = text.partition(":")
    for number, piece in enumerate(split_commas(rest) if mark else ()):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if equals:
            yield key, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        elif number == 0 and first is not None:
            yield first, key
        else:
            raise ArgumentError(f"expected KEY=VALUE, got '{piece}' in {what} '{text}'")


def split_commas(text: str) -> list[str]:
    """The pieces of a text between its commas, but for those between double quotes.

    Example:
        >>> split_commas('model=a,rubric="red, round"'), split_commas('a "b, c')
        (['model=a', 'rubric="red, round"'], ['a "b', ' c'])
    """
    return re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', text) if text.count('"') % 2 == 0 else text.split(",")


def join_part(name: str, arguments: Mapping[str, Any]) -> str:
    """The text of a part with some arguments.

    Example:
        >>> join_part("dno", {"lr": 0.01, "guard": "shell:0.1"})
        'dno:lr=0.01,guard=shell:0.1'
    """
    pieces = (f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in arguments.items())
    return f"{name}:{','.join(pieces)}" if arguments else name


def rename_arguments(text: str) -> str:
    """A part with its arguments by their names of today, without spaces: equal parts are equal texts.

    Example:
        >>> rename_arguments("concentration: target = 0.1"), rename_arguments("shell:0.01")
        ('concentration:min_probability=0.1', 'shell:0.01')
    """
    text = re.sub(r"\s*([:,=])\s*", r"\1", text.strip())
    old, new = _RENAMED.get(text.partition(":")[0], ("", ""))
    return re.sub(rf"(?<=[:,]){old}(?==)", new, text) if old else text


PartText = Annotated[str | None, AfterValidator(lambda text: text and rename_arguments(text))]
"""An option that names a part, in one spelling to compare."""


def split_parts(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Parts with commas between them: a piece that is only KEY=VALUE belongs to the one before.

    Example:
        >>> split_parts("dno:lr=0.05,clip,reno"), split_parts(["lgd:votes=3,scale=2,fk"])
        (('dno:lr=0.05', 'clip', 'reno'), ('lgd:votes=3,scale=2', 'fk'))
    """
    found: list[str] = []
    for piece in (
        piece.strip() for text in ([texts] if isinstance(texts, str) else texts) for piece in split_commas(text)
    ):
        if found and "=" in piece.partition(":")[0]:
            found[-1] += ("," if ":" in found[-1] else ":") + piece
        elif piece:
            found.append(piece)
    return tuple(found)


def read_assignments(texts: Iterable[str], *, name: str) -> dict[str, Any]:
    """Values by name, each from a text KEY=VALUE and read as a Python literal where it is one.

    Arguments:
        texts: the assignments.
        name: of the option or field that they are given to, for errors.

    Raises:
        ArgumentError: a text is no assignment.

    Example:
        >>> read_assignments(["clip_skip=1", "mode=soft"], name="--set")
        {'clip_skip': 1, 'mode': 'soft'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if not mark or not key.isidentifier():
            raise ArgumentError(f"{name} must be KEY=VALUE, as in guidance_rescale=0.7, got '{shorten(text, 80)}'")
        found[key] = literal(value)
    return found


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


def _read(value: str, default: Any, name: str) -> Any:
    """A value of the kind of a default."""
    if isinstance(default, str):
        return value
    plain: Any = _WORDS.get(value.lower(), value)
    if isinstance(default, bool):
        expected, read = "true or false", plain if isinstance(plain, bool) else None
    elif isinstance(default, int):
        expected, read = "an integer", _number(plain, int)
    elif isinstance(default, float):
        expected, read = "a finite number", _number(plain, float)
    elif not isinstance(plain, str):
        return plain
    else:
        expected = "a finite number, true, false, or none"
        read = found if (found := _number(plain, int)) is not None else _number(plain, float)
    if read is None:
        raise ArgumentError(f"{name} must be {expected}, got '{value}'")
    return read


def _number(value: Any, kind: Callable[[str], Any]) -> Any:
    """A text as a finite number; None where it is none."""
    try:
        number = kind(value) if isinstance(value, str) and value.isascii() else None  # no digits of other scripts
    except ValueError:
        return None
    return None if isinstance(number, float) and not math.isfinite(number) else number
