"""Options as people read them: a line or a table row each."""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from noiseward.options.option import Options, bounds_of, extra_of

__all__ = ["describe_options", "to_markdown", "describe_option", "type_of"]


def describe_options(options: type[Options], *, indent: int = 0) -> str:
    """A paragraph per option for a docstring: name, type, bounds, help and default."""
    fields = ((name, options.model_fields[name]) for name in options.names())
    lines = [f"{name} ({type_of(field)}): {describe_option(field)}" for name, field in fields]
    wrap = textwrap.TextWrapper(120, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))
    return "\n".join(wrap.fill(line) for line in lines)


def to_markdown(options: type[Options], names: Sequence[str] | None = None) -> str:
    """A table with a row per option, or per one of those that are named.

    Example:
        >>> from noiseward.options.run import BudgetOptions
        >>> print(to_markdown(BudgetOptions).splitlines()[3])
        | `seconds` | number >= 0, s |  | Stop before this much time has passed. |
    """
    rows = [
        f"| `{name}` | {type_of(field)} | {_default(field)} | {field.description} |".replace("|, ", ", ")
        for name, field in ((name, options.model_fields[name]) for name in names or options.names())
    ]
    return "\n".join(["| option | type | default | |", "|---|---|---|---|", *rows])


def type_of(field: FieldInfo) -> str:
    """The type of an option in words, with bounds and unit.

    Example:
        >>> from noiseward.options.run import CallOptions
        >>> [type_of(CallOptions.model_fields[name]) for name in ("eta", "height")]
        ['number >= 0 <= 1', 'integer > 0, pixels']
    """
    extra = extra_of(field)
    known = [(sign, bound) for sign, bound in bounds_of(field) if abs(bound) < 2**31]
    bounds = [f"{sign} {bound:{'d' if isinstance(bound, int) else 'g'}}" for sign, bound in known]
    unit = f", {extra['unit']}" if "unit" in extra else ""
    return " ".join([_name(field.annotation), *bounds]) + unit


def _name(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _name(inner[0])
    if origin in (typing.Union, types.UnionType):
        kinds = [one for one in inner if one is not type(None) and not (one is int and float in inner)]
        return " or ".join(dict.fromkeys(map(_name, kinds)))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is tuple:
        return "list of text"
    names: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "path"}
    return names.get(kind, "table")


def _default(field: FieldInfo) -> str:
    is_empty = field.default is None or field.default is False or field.default is PydanticUndefined
    return "" if is_empty or field.default in ("", (), {}) else f"`{str(field.default).lower()}`"


def describe_option(field: FieldInfo) -> str:
    """The help of an option, with its default."""
    default = _default(field).strip("`")
    return f"{field.description} Default: {default}." if default else str(field.description)
