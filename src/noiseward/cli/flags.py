"""Commands whose flags follow from their options.

A command is a function that takes options models; :func:`expand` gives it the signature that typer reads, with a flag
per option. What is not given is left to the options' defaults, and checked by them.
"""

from __future__ import annotations

import functools
import inspect
import tomllib
import typing
from collections.abc import Callable, Set
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from noiseward.cli.complete import COMPLETERS
from noiseward.errors import ArgumentError, shorten
from noiseward.options.option import Options, extra_of
from noiseward.options.parts import read_assignments
from noiseward.options.run import CallOptions, RunSpec, lift_call
from noiseward.options.table import describe_option, type_of

__all__ = ["Without", "expand"]

SPEC = "spec_file"
METAVARS = {"integer": "INTEGER", "number": "NUMBER", "text": "TEXT", "list": "TEXT", "table": "KEY=VALUE",
            "path": "PATH"}  # fmt: skip


class Without:
    """Marks options of a model that a command has no flag for: `Annotated[RunSpec, Without("prompt")]`."""

    def __init__(self, *names: str) -> None:
        self.names = names


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a flag for each option of the models that it takes.

    One that takes a `RunSpec` has `--spec` as well, a TOML file of options, over which flags go.
    """
    models: dict[str, tuple[type[Options], tuple[str, ...]]] = {}
    flags: dict[str, inspect.Parameter] = {}
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and issubclass(kind, Options):
            left_out = tuple(one for mark in marks if isinstance(mark, Without) for one in mark.names)
            models[name] = kind, left_out
            flags |= {one: _flag(kind, one) for one in kind.names() if one not in left_out}
        elif name != "return":
            flags[name] = inspect.signature(command).parameters[name].replace(annotation=hint)
    if any(issubclass(kind, RunSpec) for kind, _ in models.values()):
        help = "A TOML file of options; flags go over it."
        flags[SPEC] = _parameter(SPEC, Annotated[Path | None, typer.Option("--spec", help=help)], None)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        known = {name: value for name, value in given.items() if value not in (None, [], ())}
        written = _read_toml(known.pop(SPEC)) if SPEC in known else {}
        built = {}
        for name, (kind, left_out) in models.items():
            own = {one: _value(kind.model_fields[one], known.pop(one)) for one in kind.names() if one in known}
            file = written if issubclass(kind, RunSpec) else {}
            if misplaced := [one for one in file if one in left_out]:
                raise ArgumentError(f"--spec has '{misplaced[0]}', which this command does not take; leave it out")
            if issubclass(kind, CallOptions):
                file, own = lift_call(file), {one: value for one, value in lift_call(own).items() if value != {}}
            built[name] = kind.read(_over(file, own), spell=functools.partial(_spell, kind, file.keys() - own.keys()))
        command(**built, **{name: value for name, value in given.items() if name not in flags or name in known})

    setattr(run, "__signature__", inspect.Signature(list(flags.values())))  # noqa: B010
    return run


def _over(file: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Flags over a file; of a table, key by key."""
    tables = {name for name, value in own.items() if isinstance(value, dict) and isinstance(file.get(name), dict)}
    return {**file, **own, **{name: {**file[name], **own[name]} for name in tables}}


def _spell(kind: type[Options], keys: Set[str], name: str) -> str:
    """An option as its user wrote it: as a key of the TOML file, or as a flag."""
    return name if name in keys else kind.flag(name)


def _flag(kind: type[Options], name: str) -> inspect.Parameter:
    """An option as typer knows it: every value a text or texts, for it is the model that reads them."""
    field = kind.model_fields[name]
    extra, help, kind_of = extra_of(field), describe_option(field), type_of(field)
    if field.annotation is bool:
        names = [kind.flag(name), *([extra["short"]] if "short" in extra else [])]
        mark = typer.Option(*names, help=help, rich_help_panel=kind.group(name))
        return _parameter(name, Annotated[bool | None, mark], None)  # False is a value
    several = kind_of.startswith(("list", "table"))
    hint: Any = list[str] | None if several else str | None
    if extra.get("argument"):
        return _parameter(
            name, Annotated[hint, typer.Argument(help=help, show_default=False, metavar=name.upper())], None
        )
    metavar = METAVARS.get(kind_of.partition(" ")[0].partition(",")[0], "NAME")
    mark = typer.Option(
        kind.flag(name),
        help=help,
        metavar=metavar,
        envvar=extra.get("env"),
        show_envvar=False,
        rich_help_panel=kind.group(name),
        autocompletion=COMPLETERS.get(name),
    )
    return _parameter(name, Annotated[hint, mark], None)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _value(field: FieldInfo, value: Any) -> Any:
    return read_assignments(value, name="--set") if type_of(field) == "table" else value


def _read_toml(path: Path) -> dict[str, Any]:
    from noiseward.runs.text import read_text

    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"--spec must be a TOML file, got '{path}' ({shorten(str(error), 120)})") from None
