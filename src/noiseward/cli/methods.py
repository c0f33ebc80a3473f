"""`noiseward methods`: what --method takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from noiseward.cli.complete import COMPLETERS
from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["methods"]


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", autocompletion=COMPLETERS["method"], help="A method, for its arguments."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List the methods; with a name, the arguments of that method."""
    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.methods import METHODS, read_method
    from noiseward.methods.plugins import find_plugin, list_installed_methods, split_file

    console, wide = terminal.console(), terminal.console(soft_wrap=True)
    if name is None:
        every = [_describe(recipe) for recipe in METHODS.values()]
        every += [_describe(found) for name in list_installed_methods() if (found := find_plugin(name))]
        if json:
            print_json(every)
            return
        cells = [[one["method"], ", ".join(one["needs"]), one["does"]] for one in every]
        print_table(("method", "needs", "does"), cells, console, left=("method", "needs", "does"), wrap=("does",))
        wide.print("NAME:ARG=VALUE,...: 'noiseward methods NAME' lists the arguments of one")
        wide.print("path/to/file.py:Class is a method of your own: docs/own-method.md; it runs that file")
        return
    in_file = split_file(name)
    recipe = type(read_method(in_file[0] if in_file else name.partition(":")[0]))
    found = _describe(recipe)
    if json:
        print_json(found)
        return
    wide.print(found["about"])
    if recipe.paper:
        wide.print(recipe.paper)
    head = ("argument", "type", "does")
    cells = [[one["name"], one["type"], one["does"]] for one in found["arguments"]]
    print_table(head, cells, console, left=head, wrap=("type", "does"))


def _describe(recipe: Any) -> dict[str, Any]:
    """A method as plain data."""
    import inspect

    from noiseward.options.table import describe_option, type_of

    about = inspect.getdoc(recipe) or ""
    names = [*recipe.own(), *(other for other in recipe.model_fields if other not in recipe.own())]
    fields = [(name, recipe.model_fields[name]) for name in names]
    return {
        "method": recipe.name,
        "does": " ".join(about.partition("\n\n")[0].split()),
        "about": about,
        "needs": list(recipe.needs),
        "paper": recipe.paper or None,
        "arguments": [{"name": name, "type": type_of(field), "does": describe_option(field)} for name, field in fields],
    }
