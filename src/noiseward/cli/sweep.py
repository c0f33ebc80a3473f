"""What `batch` and `compare` share: work off a sweep while it is shown, say how to continue, and show it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from noiseward.cli.ending import advise
from noiseward.options.commands import EngineOptions

if TYPE_CHECKING:
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.engine import Beat
    from noiseward.sweep.measure import Measured
    from noiseward.sweep.outcomes import Outcome
    from noiseward.sweep.pack_task import PackState
    from noiseward.sweep.packs import Pack
    from noiseward.trackers import Log

__all__ = ["describe_sweep", "exit_undone", "run_sweep", "show_sweep"]


def run_sweep(
    sweep: Sweep, workers: EngineOptions, *, log: Log = (), quiet: bool = False, json: bool = False
) -> tuple[dict[str, Beat], bool]:
    """Run what is not done of a sweep; returns the last beat of each pack, and whether it was interrupted.

    Arguments:
        sweep: to run.
        workers: who does the work.
        log: trackers that log every pack that ends.
        quiet: print nothing.
        json: print a line of JSON per beat.
    """
    import torch

    from noiseward import terminal
    from noiseward.sweep.ray import open_engine
    from noiseward.sweep.tracked import track_beats
    from noiseward.sweep.view import Tally, print_json, show

    torch.set_num_threads(workers.threads)
    tally = Tally(sweep.size, sweep.size - sum(pack.size for pack in sweep.undone()))
    ended: dict[str, Beat] = {}
    with open_engine(workers) as engine:
        beats: Iterable[Beat] = track_beats(sweep.run(engine), sweep, log)
        if json:
            beats = print_json(beats, tally, sys.stdout)
        elif not quiet:
            ids = {pack.name: [name for name, _, _ in pack.rows()] for pack in sweep.packs}
            beats = show(beats, tally, console=terminal.console(stderr=True), ids=ids)
        try:
            for beat in beats:
                ended[beat.pack] = beat
        except KeyboardInterrupt:
            return ended, True
    return ended, any(beat.state == "interrupted" for beat in ended.values())


def exit_undone(outcomes: Sequence[Outcome], *, stopped: bool = False) -> None:
    """Exit with a line about what is not done, if anything is not: with status 130 if the user stopped it, else 1."""
    from noiseward.sweep.outcomes import describe_undone

    undone = describe_undone(outcomes)
    if undone and stopped:
        advise(undone)
        raise typer.Exit(130)
    if undone:
        print(f"noiseward: {undone}", file=sys.stderr)
        raise typer.Exit(1)


def show_sweep(out: Path, *, json: bool = False) -> None:
    """Print what came out of a batch or a comparison so far."""
    from noiseward import terminal
    from noiseward.cli.printing import print_json
    from noiseward.cli.sweep_tables import print_lines, print_outcomes
    from noiseward.sweep.directory import Sweep
    from noiseward.sweep.outcomes import find_outcomes

    sweep, console = Sweep.read(out), terminal.console()
    found = find_outcomes(sweep)
    outcomes, measured = [one for _, _, some in found for one in some], _measure(sweep, found)
    if json:
        print_json(describe_sweep(sweep, outcomes, measured))
        return
    if measured is not None and (lines := measured.rows("1.0")):
        print_lines(lines, console, note=measured.note)
    for method, why in measured.refused.items() if measured is not None else ():
        console.print(f"{method} does not apply: {why}", highlight=False, markup=False, soft_wrap=True)
    print_outcomes(outcomes, sweep.out, console)


def _measure(sweep: Sweep, found: Sequence[tuple[Pack, PackState, list[Outcome]]]) -> Measured | None:
    """The tables of a comparison; None for a batch."""
    from noiseward.sweep.compare import read_refused
    from noiseward.sweep.measure import measure

    packs = [pack for pack in sweep.packs if pack.measure is not None]
    if not packs:
        return None
    results = [(pack, state.measurements) for pack, state, _ in found if state.measurements is not None]
    spec = packs[0].spec
    kind, amount = ("nfe", spec.nfe) if spec.nfe is not None else ("seconds", spec.seconds or 0.0)
    return measure(results, read_refused(sweep.out), kind=kind, amount=amount)


def describe_sweep(sweep: Sweep, outcomes: Sequence[Outcome], measured: Measured | None) -> dict[str, Any]:
    """A batch or a comparison as plain data, for `--json`."""
    described: dict[str, Any] = {"sweep": sweep.out, "rows": list(outcomes)}
    if measured is not None:
        described |= {"methods": measured.rows("1.0"), "refused": measured.refused}
    return described
