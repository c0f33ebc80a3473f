"""What an experiment checks, and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.figure import Figure
from PIL import Image

__all__ = ["Agreement", "Claim", "Outcome"]

Agreement = Literal["agrees", "agrees in part", "contradicts", "not comparable"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is to be checked.

    Arguments:
        title: of its section.
        paper: what the paper says, in our words.
        source: where it says so.
        minutes: what the full form takes, about.
        where: it takes that long.
    """

    title: str
    paper: str
    source: str
    minutes: int
    where: str = "two cores"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was found.

    Arguments:
        verdict: in a sentence or two, with the numbers that decide.
        agreement: with the paper.
        settings: everything that was chosen, seeds included.
        results: plain data.
        table: head and lines of the table that people read.
        figure: the plot.
        images: more, by the ends of their names: `NAME_END.png`.
        frames: of an animation, each with the milliseconds it stays.
    """

    verdict: str
    agreement: Agreement
    settings: dict[str, Any]
    results: Any
    table: Sequence[Sequence[str]] = ()
    figure: Figure | None = None
    images: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)
    frames: Sequence[tuple[Image.Image, int]] = ()
