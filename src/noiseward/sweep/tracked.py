"""Beats of a sweep, passed on while trackers take what came out of its packs.

* Numbers, whenever a pack ends: rows `done` and `failed`, and the mean `gain` of those that are done; in a comparison
  of each method, as in `gain/dno`. Their step is the number of rows that are done.
* An image of the rows before and after, `contact`, but not more often than every few seconds.
* A table at the end: what `index.csv` has.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping

from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat
from noiseward.sweep.outcomes import Outcome, draw_contact, find_outcomes
from noiseward.sweep.packs import Pack
from noiseward.trackers import Log, TrackedRun, check_trackers, list_trackers, open_tracker
from noiseward.trackers.tolerant import Tolerant
from noiseward.trackers.tracker import Tracker

__all__ = ["track_beats"]

EVERY = 10.0  # seconds between two images


def track_beats(beats: Iterable[Beat], sweep: Sweep, log: Log) -> Iterator[Beat]:
    """Pass beats on, and tell trackers of every pack that ends.

    Arguments:
        beats: of the packs of the sweep.
        sweep: whose directories are read.
        log: trackers, by name or opened; the run they show has the name of the sweep's directory.

    Raises:
        ArgumentError, ModelError: as `check_trackers`, before anything is run.
    """
    check_trackers(log)
    spec = {} if not sweep.packs else sweep.packs[0].spec.plain()
    config = {key: value for key, value in spec.items() if key not in ("prompt", "seed")} | {"rows": sweep.size}
    run = TrackedRun(sweep.out.resolve().name, folder=sweep.out, config=config)
    for tracker in list_trackers(log):
        beats = _track(beats, sweep, Tolerant(open_tracker(tracker, run)))
    return iter(beats)


def _track(beats: Iterable[Beat], sweep: Sweep, tracker: Tracker) -> Iterator[Beat]:
    ended: dict[str, Beat] = {}
    shown, failed = -math.inf, False
    try:
        for beat in beats:
            ended[beat.pack] = beat
            if beat.state != "running":
                numbers, step, outcomes = _count(sweep, ended)
                tracker.log_numbers(numbers, step)
                if time.monotonic() - shown > EVERY:
                    _show(tracker, outcomes, sweep, step)
                    shown = time.monotonic()
            yield beat
    except Exception:
        failed = True
        raise
    finally:
        _, step, outcomes = _count(sweep, ended)
        _show(tracker, outcomes, sweep, step)
        tracker.log_table([dataclasses.asdict(one) for one in outcomes], step)
        tracker.close(failed=failed)


def _count(sweep: Sweep, ended: Mapping[str, Beat]) -> tuple[dict[str, float], int, list[Outcome]]:
    found = find_outcomes(sweep, ended)
    outcomes = [one for _, _, some in found for one in some]
    counts = {state: sum(one.state == state for one in outcomes) for state in ("done", "failed")}
    gains: dict[str, list[float]] = {}
    for pack, _, some in found:
        gains.setdefault(_label(pack), []).extend(
            one.gain for one in some if one.state == "done" and one.gain is not None and math.isfinite(one.gain)
        )
    means = {name: sum(values) / len(values) for name, values in gains.items() if values}
    return {**{name: float(count) for name, count in counts.items()}, **means}, counts["done"], outcomes


def _label(pack: Pack) -> str:
    return "gain" if pack.measure is None else f"gain/{pack.spec.method}"


def _show(tracker: Tracker, outcomes: list[Outcome], sweep: Sweep, step: int) -> None:
    if (sheet := draw_contact(outcomes, sweep.out)) is not None:
        tracker.log_images({"contact": sheet}, step)
