"""`noiseward models`: what --model takes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from noiseward.cli.complete import COMPLETERS
from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["models"]


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", autocompletion=COMPLETERS["model"], help="A model, for what it knows."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List what --model and --scheduler take; with a name, what is known of that model."""
    from noiseward import terminal
    from noiseward.errors import ArgumentError, choices
    from noiseward.pipelines.cards import card_of, load_cards, load_schedulers

    console = terminal.console(soft_wrap=True)
    if name is None and json:
        print_json([_describe(short, card) for short, card in load_cards().items()])
        return
    if name is None:
        for short, card in load_cards().items():
            counts = ", ".join(f"{len(words)} {kind}" for kind, words in card.words.items())
            console.print(f"{short:14} {card.says}{f' ({counts})' if counts else ''}")
        console.print("path/to/model  a diffusers folder: what pipe.save_pretrained() wrote")
        console.print("path/to/file   a checkpoint in one file, .safetensors or .ckpt")
        console.print("owner/name     a hub id, from the local cache or downloaded")
        console.print("file.py:name   a function of your own that makes a sampler or a pipeline; it runs that file")
        console.print("schedulers:    --scheduler", ", ".join(load_schedulers()), "or a class of diffusers")
        return
    card = card_of(name)
    if card is None:
        raise ArgumentError(f"unknown model '{name}'; {choices(name, load_cards())}")
    if json:
        print_json(_describe(name, card))
        return
    call = ", ".join(f"{key}={value}" for key, value in card.call.items())
    if card.id:
        console.print("id:       ", card.id, f"(hf download {card.id})")
    else:
        console.print("files:    ", card.path)
    console.print("is:       ", card.says)
    console.print("scheduler:", card.scheduler or "its own")
    console.print("dtype:    ", card.dtype or "bfloat16 on a GPU, float32 elsewhere")
    console.print("call:     ", call)
    if card.prompts:
        console.print("prompts:  ", card.prompts)
    narrow = terminal.console()
    for kind, words in card.words.items():
        narrow.print(f"{kind + ':':10}", ", ".join(words))


def _describe(name: str, card: Any) -> dict[str, Any]:
    """A model's card as plain data."""
    fields = {key: value for key, value in dataclasses.asdict(card).items() if key != "module"}
    return {"model": name, **fields, "path": card.path, "words": {kind: list(one) for kind, one in card.words.items()}}
