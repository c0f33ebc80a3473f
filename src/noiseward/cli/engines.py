"""Options that say who does the work: this process, or a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Address", "Name", "Threads", "Workers", "check"]

Name = Annotated[str, typer.Option(help="local, or ray: one worker per device of a machine or cluster.")]
Address = Annotated[str | None, typer.Option(help="With ray: a running cluster, auto or HOST:PORT.")]
Workers = Annotated[int | None, typer.Option(min=1, help="With ray: at most so many.  [default: all]")]
Threads = Annotated[int, typer.Option(min=1, help="Of the processor, per worker.")]


def check(engine: str, address: str | None, workers: int | None) -> None:
    """Raise `ArgumentError` unless there is such an engine, and the rest is its own."""
    from noiseward.errors import ArgumentError, choices

    if engine not in ("local", "ray"):
        raise ArgumentError(f"unknown engine '{engine}'; {choices(engine, ('local', 'ray'))}")
    if engine == "local" and (address or workers):
        raise ArgumentError("--address or --workers given beside --engine local: they are the ray engine's")
