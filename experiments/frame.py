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
from PIL import Image

from experiments import cells, page, report
from experiments.cells import Cell, Label, compute
from experiments.claim import Claim, Outcome
from noiseward.options.commands import EngineOptions

__all__ = ["Request", "main"]

Size = Literal["full", "small", "smoke"]


@dataclasses.dataclass(frozen=True)
class Request:
    """How an experiment is to be run.

    Arguments:
        name: of the experiment.
        size: `full`, `small` or `smoke`.
        engine: where cells are computed.
        given: options of the experiment's own.
        root: where cells are stored.
    """

    name: str
    size: Size = "full"
    engine: EngineOptions = dataclasses.field(default_factory=EngineOptions)
    given: argparse.Namespace = dataclasses.field(default_factory=argparse.Namespace)
    root: Path = cells.CELLS

    def pick(self, full: Any, small: Any, smoke: Any) -> Any:
        """What belongs to this size."""
        return {"full": full, "small": small, "smoke": smoke}[self.size]

    def cells(self, cells: Mapping[Label, Cell]) -> dict[Label, Any]:
        """The results of some cells by label, computed now or before."""
        return compute(self.name, cells, root=self.root, engine=self.engine)

    @property
    def folder(self) -> Path:
        """Where things too large for a cell are stored."""
        (self.root / self.name).mkdir(parents=True, exist_ok=True)
        return self.root / self.name


def main(
    name: str,
    claim: Claim,
    conduct: Callable[[Request], Outcome],
    *,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
) -> Outcome:
    """Run an experiment from the command line.

    Arguments:
        name: of its module.
        claim: what it checks.
        conduct: the experiment.
        options: adds options of its own; they arrive as `request.given`.
        argv: instead of the command line's.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=f"{claim.title}. The paper: {claim.paper} ({claim.source}.)",
        epilog=f"The full form takes about {claim.minutes} minutes on {claim.where}; interrupted, it continues.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--small", action="store_true", help="minutes; results elsewhere")
    form.add_argument("--smoke", action="store_true", help="seconds; nothing kept")
    cells.add_engine(parser)
    parser.add_argument("--out", type=Path, help="folder of the results")
    if options is not None:
        options(parser)
    given = parser.parse_args(argv)
    size: Size = "smoke" if given.smoke else "small" if given.small else "full"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as empty:
        root = Path(empty) if size == "smoke" else cells.CELLS
        outcome = conduct(Request(name, size, cells.read_engine(given), given, root))
    elsewhere = report.RESULTS if size == "full" else cells.CELLS / size
    publish(name, outcome, size=size, out=given.out or elsewhere)
    if size == "full" and given.out is None:
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
    for end, image in outcome.images.items():
        image.save(out / f"{name}_{end}.png")
    if outcome.frames:
        first, *rest = (frame.quantize(48, dither=Image.Dither.NONE) for frame, _ in outcome.frames)
        stay = [milliseconds for _, milliseconds in outcome.frames]
        partial = out / f"{name}.{os.getpid()}.gif"
        first.save(partial, save_all=True, append_images=rest, duration=stay, loop=0, optimize=True)
        partial.replace(out / f"{name}.gif")
