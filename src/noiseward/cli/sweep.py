"""What `batch` and `compare` share: work off a sweep while it is shown, and say how to continue."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from noiseward.options.commands import EngineOptions

if TYPE_CHECKING:
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.engine import Beat
    from noiseward.sweep.outcomes import Outcome

__all__ = ["exit_undone", "run_sweep"]


def run_sweep(
    sweep: Sweep, workers: EngineOptions, *, quiet: bool = False, json: bool = False
) -> tuple[dict[str, Beat], bool]:
    """Run what is not done of a sweep; returns the last beat of each pack, and whether it was interrupted."""
    import torch

    from noiseward import terminal
    from noiseward.sweep.ray import open_engine
    from noiseward.sweep.view import Tally, print_json, show

    torch.set_num_threads(workers.threads)
    tally = Tally(sweep.size, sweep.size - sum(pack.size for pack in sweep.undone()))
    ended: dict[str, Beat] = {}
    with open_engine(workers) as engine:
        beats: Iterable[Beat] = sweep.run(engine)
        if json:
            beats = print_json(beats, tally, sys.stdout)
        elif not quiet:
            ids = {pack.name: ", ".join(pack.ids) for pack in sweep.packs}
            beats = show(beats, tally, console=terminal.console(stderr=True), ids=ids)
        try:
            for beat in beats:
                ended[beat.pack] = beat
        except KeyboardInterrupt:
            return ended, True
    return ended, any(beat.state == "interrupted" for beat in ended.values())


def exit_undone(outcomes: Sequence[Outcome]) -> None:
    """Exit with status 1 and a line about what is not done, if anything is not."""
    from noiseward.sweep.outcomes import describe_undone

    if undone := describe_undone(outcomes):
        print(f"noiseward: {undone}", file=sys.stderr)
        raise typer.Exit(1)
