"""`noiseward models`: what --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["models"]


def models(name: Annotated[str | None, typer.Argument(help="A model, for what it knows.")] = None) -> None:
    """List what --model and --scheduler take; with a name, what is known of that model."""
    from noiseward import stickers, terminal
    from noiseward.errors import ArgumentError, choices
    from noiseward.pipelines.cards import cards, scheduler_names

    console = terminal.console()
    if name is None:
        console.print(
            "stickers       built in: 64 x 64 pictures of",
            len(stickers.nouns()),
            "things, on",
            len(stickers.colors()),
            "colors",
        )
        for short, card in cards().items():
            console.print(f"{short:14} {card.says}", soft_wrap=True)
        console.print("path/to/model  a diffusers folder: what pipe.save_pretrained() wrote")
        console.print("path/to/file   a checkpoint in one file, .safetensors or .ckpt")
        console.print("owner/name     a hub id, from the local cache or downloaded")
        console.print(
            "schedulers:    --scheduler", ", ".join(scheduler_names()), "or a class of diffusers", soft_wrap=True
        )
        return
    if name in cards():
        card = cards()[name]
        call = ", ".join(f"{key}={value}" for key, value in card.call.items())
        console.print("id:       ", card.id, f"(hf download {card.id})", soft_wrap=True)
        console.print("is:       ", card.says, soft_wrap=True)
        console.print("scheduler:", card.scheduler or "its own")
        console.print("dtype:    ", card.dtype or "bfloat16 on a GPU, float32 elsewhere")
        console.print("call:     ", call, soft_wrap=True)
        return
    if name != "stickers":
        raise ArgumentError(f"'{name}' is no model's name: {choices(name, ['stickers', *cards()])}")
    console.print("nouns: ", ", ".join(stickers.nouns()), soft_wrap=False)
    console.print("colors:", ", ".join(stickers.colors()))
    console.print("say 'a NOUN' or 'a NOUN on a COLOR background'")
    console.print("files: ", stickers.path(), soft_wrap=True)
