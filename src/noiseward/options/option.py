"""One option: its name, type, default, bounds, unit and line of help, and how values of it are read.

Options are fields of pydantic models, wherever a value comes from: a keyword argument, the command line, a TOML file, a
line of a prompt file, `spec.json`. Each of these spells an option in its own way, and an error names it in that
spelling:

    steps must be >= 0, got -1
    --num-inference-steps must be an integer, got 'ten'
    unknown option 'stpes'; did you mean 'steps'?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.options.replaced import REPLACED, renamed

__all__ = ["Options", "Texts", "as_keyword", "as_texts", "bounds_of", "explain", "extra_of", "option"]


def as_texts(value: Any) -> Any:
    """One text as a list of one."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(as_texts)]

_EXPECTED = {"int": "an integer", "float": "a number", "bool": "true or false", "string": "text", "tuple": "a list",
             "dict": "a table of names and values", "finite": "finite", "list": "a list"}  # fmt: skip
_BOUNDS = {"greater_than_equal": (">=", "ge"), "greater_than": (">", "gt"),
           "less_than_equal": ("<=", "le"), "less_than": ("<", "lt")}  # fmt: skip


def option(default: Any, *, help: str, **more: Any) -> Any:
    """Declare an option.

    Arguments:
        default: its value if none is given; `...` for an option that is required.
        help: one line.
        more: bounds, as pydantic names them (`ge`, `gt`, `le`, `lt`, `min_length`); the `unit` of its value; and for
            the command line its `flag`, a `short` one, `argument=True` for none, the `env` variable it is taken from,
            and the `group` it is listed in where that is not the one of its class.

    Example:
        >>> class Walk(Options):
        ...     steps: int = option(3, ge=0, help="How many steps.")
        >>> Walk(steps=-1)
        Traceback (most recent call last):
            ...
        noiseward.errors.ArgumentError: steps must be >= 0, got -1
    """
    extra = {name: more.pop(name) for name in ("unit", "flag", "short", "argument", "env", "group") if name in more}
    return Field(default, description=help, json_schema_extra=extra, **more)


def extra_of(field: FieldInfo) -> dict[str, Any]:
    """The unit of an option, and what is special about it on the command line."""
    return dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}


def as_keyword(name: str) -> str:
    """An option as Python, JSON and TOML spell it."""
    return name


class Options(BaseModel):
    """Some options. They do not change once they are made.

    Raises:
        ArgumentError: an unknown name, or a value of the wrong type or out of bounds.
    """

    listed_in: ClassVar[str | None] = None  # the group of the command line's help
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        self._fill(values, as_keyword)

    @classmethod
    def read(cls, values: Mapping[str, Any], *, spell: Callable[[str], str] = as_keyword) -> Self:
        """Read some values; `spell` writes an option's name in error messages."""
        options = cls.__new__(cls)
        options._fill(dict(values), spell)
        return options

    def _fill(self, values: dict[str, Any], spell: Callable[[str], str]) -> None:
        for name, value in values.items():
            field = type(self).model_fields.get(name)
            if isinstance(value, bool) and field and {int, float} & {field.annotation, *get_args(field.annotation)}:
                raise ArgumentError(f"{spell(name)} must be a number, got {value}")
        try:
            self.__pydantic_validator__.validate_python(values, self_instance=self)
        except ValidationError as error:
            raise ArgumentError(explain(error, type(self), spell)) from None

    @classmethod
    def names(cls) -> list[str]:
        """Every option by name: those that a class declares before those it inherits."""
        return list(dict.fromkeys(name for kind in cls.__mro__ for name in _declared(kind) if name in cls.model_fields))

    @classmethod
    def flag(cls, name: str) -> str:
        """An option as the command line spells it."""
        extra = extra_of(cls.model_fields[name]) if name in cls.model_fields else {}
        return name.upper() if extra.get("argument") else extra.get("flag", "--" + name.replace("_", "-"))

    @classmethod
    def group(cls, name: str) -> str | None:
        """The group that help lists an option in: its own, or that of the class that declares it."""
        owner = next((kind for kind in cls.__mro__ if name in _declared(kind)), cls)
        return extra_of(cls.model_fields[name]).get("group") or vars(owner).get("listed_in")

    def replace(self, **changes: Any) -> Self:
        """The same options but for some values."""
        return type(self)(**{**self.values(), **changes})

    def values(self) -> dict[str, Any]:
        """Every option's value by name."""
        return {name: getattr(self, name) for name in self.names()}

    def plain(self) -> dict[str, Any]:
        """Every option's value as JSON holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.values().items()}


def _declared(kind: type) -> list[str]:
    return list(vars(kind).get("__annotations__", ()))


def explain(error: ValidationError, options: type[Options], spell: Callable[[str], str] = as_keyword) -> str:
    """The first fault of some values, in one line."""
    fault = error.errors(include_url=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else ""
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden" and name in REPLACED:
        return renamed(spell(name), value)
    if kind == "extra_forbidden":
        return f"unknown option {spell(name)!r}; {choices(name, options.names())}"
    if kind == "missing":
        return f"{spell(name)} is missing; {options.model_fields[name].description}"
    return f"{spell(name)} must be {_expected(fault)}, got {_show(value)}" if name else _reason(fault)


def _expected(fault: ErrorDetails) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _BOUNDS:
        sign, bound = _BOUNDS[kind]
        return f"{sign} {context[bound]:{'d' if isinstance(context[bound], int) else 'g'}}"
    if kind == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')}"
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "value_error":
        return str(context["error"])
    return _EXPECTED.get(kind.partition("_")[0], shorten(fault["msg"], 80))


def _reason(fault: ErrorDetails) -> str:
    return str(fault.get("ctx", {}).get("error", fault["msg"]))


def _show(value: Any) -> str:
    """A value as it was given, shortened."""
    return shorten(repr(value), 60)


def bounds_of(field: FieldInfo) -> Iterator[tuple[str, float]]:
    """The bounds of an option: a sign and a number each."""
    for sign, name in _BOUNDS.values():
        for found in field.metadata:
            bound = getattr(found, name, None)
            if bound is not None and math.isfinite(bound):
                yield sign, bound
