"""`noiseward methods`: what --method takes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["methods"]


def methods(name: Annotated[str | None, typer.Argument(help="A method, for its arguments.")] = None) -> None:
    """List the methods; with a name, the arguments of that method."""
    import inspect

    from rich.table import Table

    from noiseward import terminal
    from noiseward.methods import METHODS, read_method
    from noiseward.options.table import describe_option, type_of

    console, table = terminal.console(), Table(box=None, header_style="bold", pad_edge=False)
    if name is None:
        for title in ("method", "does", "needs"):
            table.add_column(title, overflow="fold")
        for one, recipe in METHODS.items():
            table.add_row(one, (inspect.getdoc(recipe) or "").partition("\n")[0], ", ".join(recipe.needs))
        console.print(table)
        console.print("NAME:ARG=VALUE,...: 'noiseward methods NAME' lists the arguments of one")
        return
    recipe = type(read_method(name.partition(":")[0]))
    console.print(inspect.getdoc(recipe), soft_wrap=True)
    if recipe.paper:
        console.print(recipe.paper)
    for title in ("argument", "type", ""):
        table.add_column(title, overflow="fold")
    for one in [*recipe.own(), *(other for other in recipe.model_fields if other not in recipe.own())]:
        table.add_row(one, type_of(recipe.model_fields[one]), describe_option(recipe.model_fields[one]))
    console.print(table)
