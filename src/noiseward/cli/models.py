"""`noiseward models`: what --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["models"]


def models(name: Annotated[str | None, typer.Argument(help="A model, for what it knows.")] = None) -> None:
    """List what --model takes; with a name, what that model can draw."""
    from rich.console import Console

    from noiseward import stickers
    from noiseward.errors import ArgumentError, choices

    console = Console(highlight=False)
    if name is None:
        console.print(
            "stickers       built in: 64 x 64 pictures of",
            len(stickers.nouns()),
            "things, on",
            len(stickers.colors()),
            "colors",
        )
        console.print("path/to/model  a diffusers folder: what pipe.save_pretrained() wrote")
        console.print("owner/name     a hub id, from the local cache or downloaded")
        return
    if name != "stickers":
        raise ArgumentError(f"'{name}' is not built in: {choices(name, ['stickers'])}")
    console.print("nouns: ", ", ".join(stickers.nouns()), soft_wrap=False)
    console.print("colors:", ", ".join(stickers.colors()))
    console.print("say 'a NOUN' or 'a NOUN on a COLOR background'")
    console.print("files: ", stickers.path(), soft_wrap=True)
