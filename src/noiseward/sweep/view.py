"""The live view of a sweep, as a consumer of beats: how many rows are done, what they gained, how long it will take."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from noiseward import terminal
from noiseward.loop.span import format_span
from noiseward.sweep.engine import Beat

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Tally", "print_json", "show"]

EVERY = 30.0  # seconds between two lines where there is no terminal and no task ends


@dataclasses.dataclass
class Tally:
    """How far a sweep is.

    Arguments:
        total: its rows.
        done: those that were done before.
        clock: seconds that only grow.

    Example:
        >>> tally = Tally(total=4, done=2, clock=iter([0.0, 10.0]).__next__)
        >>> tally.count(Beat("0001", "running", rows=2, step=3, part=0.5, gain=(0.25, 0.75)))
        >>> str(tally)
        '2/4 done, 2 running, 0 failed, gain +0.5, 10 s left'
    """

    total: int
    done: int = 0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._begin, self._before = self.clock(), self.done
        self._last: dict[str, Beat] = {}

    def count(self, beat: Beat) -> None:
        """Take a beat into account."""
        if beat.state == "failed" and beat.divisible and beat.rows > 1:
            self._last.pop(beat.pack, None)  # its rows will be done one by one
        else:
            self._last[beat.pack] = beat

    def rows(self, state: str) -> int:
        """How many rows are in a state."""
        before = self._before if state == "done" else 0
        return before + sum(beat.rows for beat in self._last.values() if beat.state == state)

    @property
    def part(self) -> float:
        """How much of what was to be done is done, 0 to 1."""
        ended = [beat.rows * (beat.part if beat.state == "running" else 1.0) for beat in self._last.values()]
        todo = self.total - self._before
        return min(sum(ended) / todo, 1.0) if todo else 1.0

    @property
    def gain(self) -> float:
        """The mean gain of the rows that were seen."""
        gains = [gain for beat in self._last.values() for gain in beat.gain]
        return sum(gains) / len(gains) if gains else math.nan

    @property
    def left(self) -> float:
        """Seconds that are left at the pace so far."""
        part = self.part
        return (self.clock() - self._begin) * (1 - part) / part if part > 0 else math.nan

    def __str__(self) -> str:
        parts = [f"{self.rows('done')}/{self.total} done"]
        parts += [f"{self.rows(state)} {state}" for state in ("running", "failed")]
        parts += [f"{count} refused"] if (count := self.rows("refused")) else []
        gain, left = self.gain, self.left
        parts += [] if math.isnan(gain) else [f"gain {gain:+.3g}"]
        return ", ".join([*parts, *([] if math.isnan(left) else [f"{format_span(math.ceil(left))} left"])])


def show(
    beats: Iterable[Beat], tally: Tally, *, console: Console, ids: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Beat]:
    """Pass beats on while a bar shows how far the sweep is; without a terminal, print a line per task that ends.

    Arguments:
        beats: of the tasks.
        tally: counts them.
        console: where to draw.
        ids: of the rows of each pack, to name those that fail.
    """
    from rich.progress import BarColumn, Progress

    columns = [BarColumn(), terminal.column("{task.description}")]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, printed = bar.add_task("", total=1.0), time.monotonic()
        for beat in beats:
            tally.count(beat)
            if beat.state == "failed":
                again = "; its rows continue one by one" if beat.divisible and beat.rows > 1 else ""
                pack, _, row = beat.pack.partition(".")
                names = (ids or {}).get(pack, ())
                which = names[int(row)] if row and names else ", ".join(dict.fromkeys(names))
                text = f"failed: {beat.pack}{f' ({which})' if which else ''}: {beat.error}{again}"
                console.print(text, highlight=False, markup=False, soft_wrap=True)
            line = str(tally)
            bar.update(task, completed=tally.part, description=line)
            if not console.is_terminal and (beat.state != "running" or time.monotonic() - printed > EVERY):
                printed = time.monotonic()
                console.print(line, highlight=False, soft_wrap=True)
            yield beat


def print_json(beats: Iterable[Beat], tally: Tally, out: TextIO) -> Iterator[Beat]:
    """Pass beats on while each is written as a line of JSON, with how far the sweep is."""
    for beat in beats:
        tally.count(beat)
        counts = {name: tally.rows(name) for name in ("done", "running", "failed")}
        gain, left = (None if math.isnan(number) else number for number in (tally.gain, tally.left))
        whole = {"total": tally.total, **counts, "gain": gain, "left": left}
        print(json.dumps({**beat.record(), "batch": whole}), file=out, flush=True)
        yield beat
