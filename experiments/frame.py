"""The form all experiments on the paper share: one claim, one outcome, three sizes, resumable.

An experiment is a module with a `CLAIM`, what the paper says, and a function `conduct(request)` that returns an
`Outcome`, what was found. `python -m experiments.NAME` runs it in full and writes `experiments/results/NAME.json`
(verdict, whether it agrees with the paper, settings with seeds, versions, numbers with 95 % intervals) and `NAME.png`,
and brings `docs/paper.md` up to date. `--small` takes minutes and `--smoke`, which tests run, seconds: both write
elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from PIL import Image

from experiments import cells, report

__all__ = ["Claim", "Outcome", "Request", "main"]

Size = Literal["full", "small", "smoke"]
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
        pictures: more, by the ends of their names: `NAME_END.png`.
        frames: of an animation, each with the milliseconds it stays.
    """

    verdict: str
    agreement: Agreement
    settings: dict[str, Any]
    results: Any
    table: Sequence[Sequence[str]] = ()
    figure: Figure | None = None
    pictures: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)
    frames: Sequence[tuple[Image.Image, int]] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """How an experiment is to be run.

    Arguments:
        name: of the experiment.
        size: `full`, `small` or `smoke`.
        part: `i/n`: compute this share of the cells only.
        given: options of the experiment's own.
        kept: where cells are kept.
    """

    name: str
    size: Size = "full"
    part: str | None = None
    given: argparse.Namespace = dataclasses.field(default_factory=argparse.Namespace)
    kept: Path = cells.CELLS

    def pick(self, full: Any, small: Any, smoke: Any) -> Any:
        """What belongs to this size."""
        return {"full": full, "small": small, "smoke": smoke}[self.size]

    def cell(self, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """What a cell computed, now or before."""
        return cells.cell(self.name, key, compute, self.kept)

    def mine(self, index: int) -> bool:
        """Whether a cell belongs to this share of the work."""
        return cells.mine(index, self.part)

    @property
    def folder(self) -> Path:
        """Where things too large for a cell are kept."""
        (self.kept / self.name).mkdir(parents=True, exist_ok=True)
        return self.kept / self.name


def main(
    name: str,
    claim: Claim,
    conduct: Callable[[Request], Outcome | None],
    *,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> Outcome | None:
    """Run an experiment from the command line.

    Arguments:
        name: of its module.
        claim: what it checks.
        conduct: the experiment; None from it, as where only a share of the cells was wanted, writes nothing.
        options: adds options of its own; they arrive as `request.given`.
        argv: instead of the command line's.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=f"{claim.title}. The paper: {claim.paper} ({claim.source}.)",
        epilog=f"The full form takes about {claim.minutes} minutes on {claim.where}; interrupted, it goes on.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--small", action="store_true", help="minutes; results elsewhere")
    form.add_argument("--smoke", action="store_true", help="seconds; nothing kept")
    parser.add_argument("--part", help="i/n: compute only this share, to be put together by a run without it")
    parser.add_argument("--out", type=Path, help="folder of the results")
    if options is not None:
        options(parser)
    given = parser.parse_args(argv)
    size: Size = "smoke" if given.smoke else "small" if given.small else "full"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as empty:
        kept = Path(empty) if size == "smoke" else cells.CELLS
        outcome = conduct(Request(name, size, given.part, given, kept))
    if outcome is None or given.part:
        return outcome
    elsewhere = report.RESULTS if size == "full" else cells.CELLS / size
    publish(name, outcome, size=size, out=given.out or elsewhere)
    if size == "full" and given.out is None:
        from experiments import page

        page.write()
    return outcome


def publish(name: str, outcome: Outcome, *, size: Size, out: Path) -> None:
    """Write an outcome's files."""
    report.write(
        name,
        settings={"size": size, **outcome.settings},
        results=outcome.results,
        verdict=outcome.verdict,
        figure=outcome.figure,
        agreement=outcome.agreement,
        table=[list(line) for line in outcome.table],
        out=out,
    )
    for end, picture in outcome.pictures.items():
        picture.save(out / f"{name}_{end}.png")
    if outcome.frames:
        first, *rest = (frame.quantize(48, dither=Image.Dither.NONE) for frame, _ in outcome.frames)
        stay = [milliseconds for _, milliseconds in outcome.frames]
        beside = out / f"{name}.{os.getpid()}.gif"
        first.save(beside, save_all=True, append_images=rest, duration=stay, loop=0, optimize=True)
        beside.replace(out / f"{name}.gif")
