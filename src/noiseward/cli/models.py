"""`noiseward models`: what --model takes."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["models"]


def models(name: Annotated[str | None, typer.Argument(help="A model, for what it knows.")] = None) -> None:
    """List what --model and --scheduler take; with a name, what is known of that model."""
    from noiseward import terminal
    from noiseward.errors import ArgumentError, choices
    from noiseward.pipelines.cards import card_of, load_cards, load_schedulers

    console = terminal.console()
    if name is None:
        for short, card in load_cards().items():
            counts = ", ".join(f"{len(words)} {kind}" for kind, words in card.words.items())
            console.print(f"{short:14} {card.says}{f' ({counts})' if counts else ''}", soft_wrap=True)
        console.print("path/to/model  a diffusers folder: what pipe.save_pretrained() wrote")
        console.print("path/to/file   a checkpoint in one file, .safetensors or .ckpt")
        console.print("owner/name     a hub id, from the local cache or downloaded")
        console.print(
            "schedulers:    --scheduler", ", ".join(load_schedulers()), "or a class of diffusers", soft_wrap=True
        )
        return
    card = card_of(name)
    if card is None:
        raise ArgumentError(f"unknown model '{name}'; {choices(name, load_cards())}")
    call = ", ".join(f"{key}={value}" for key, value in card.call.items())
    if card.id:
        console.print("id:       ", card.id, f"(hf download {card.id})", soft_wrap=True)
    else:
        console.print("files:    ", card.path, soft_wrap=True)
    console.print("is:       ", card.says, soft_wrap=True)
    console.print("scheduler:", card.scheduler or "its own")
    console.print("dtype:    ", card.dtype or "bfloat16 on a GPU, float32 elsewhere")
    console.print("call:     ", call, soft_wrap=True)
    if card.prompts:
        console.print("prompts:  ", card.prompts, soft_wrap=True)
    for kind, words in card.words.items():
        console.print(f"{kind + ':':10}", ", ".join(words), soft_wrap=False)
