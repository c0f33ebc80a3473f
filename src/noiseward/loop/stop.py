r"""Early stops: rows that end where more steps would only spoil them, or hardly help.

* ``hacked``: a row ends as soon as its watched rewards show likely reward hacking (`hacking.py`), and keeps the best
  from before it.
* ``plateau``: a row ends once its best reward has stopped rising. With :math:`b_k` the reward of the best up to step k
  and a window of :math:`w = \max(20, k / 4)` steps, that is

  .. math:: b_k - b_{k - w} \le 0.01 \, (b_k - b_0).

  Where results must meet requirements, :math:`b_0` is the first best that does.

*Row law.* A row keeps what it had when it ended, and why, whatever its neighbors do; the run ends with its last row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch

from noiseward.errors import ArgumentError, choices
from noiseward.loop.budget import Status
from noiseward.loop.hacking import find_hacking
from noiseward.loop.panel import best_before_hacking
from noiseward.loop.step import Checkpoint, Step
from noiseward.rewards.shortfall import is_met

__all__ = ["STOPS", "EarlyStop", "has_plateaued"]

PATIENCE, WINDOW, LEAST = 20, 1 / 4, 0.01  # steps, share of the steps so far, share of the whole gain
Record = Mapping[str, Any]


def has_plateaued(history: Sequence[Record], row: int) -> bool:
    """Whether the best reward of a row has stopped rising, by a run's records (`Step.record`).

    Example:
        >>> rising = [{"index": k, "reward": [1 - 0.8**k], "found": [k]} for k in range(60)]
        >>> [has_plateaued(rising[:steps], 0) for steps in (10, 30, 60)]
        [False, False, True]
    """
    last = len(history) - 1
    before = last - max(PATIENCE, int(WINDOW * last))
    if before < 0:
        return False
    rewards = {record["index"]: record["reward"][row] for record in history}
    bests = [rewards[record["found"][row]] for record in history]
    first = next((best for best in bests if is_met(best)), bests[0])
    return bests[last] - bests[before] <= LEAST * (bests[last] - first)


def _is_hacked(history: Sequence[Record], row: int) -> bool:
    return bool(history[-1].get("watched")) and find_hacking(history, row) is not None


class Stop(NamedTuple):
    """A reason to end a row early, and how the records of a run show it."""

    name: str
    status: Status
    ends: Callable[[Sequence[Record], int], bool]


STOPS = {
    stop.name: stop
    for stop in (Stop("hacked", Status.HACKED, _is_hacked), Stop("plateau", Status.PLATEAU, has_plateaued))
}


@final
class EarlyStop:
    """Ends rows early.

    Arguments:
        names: of `STOPS`; a row ends at the first that holds.

    Example:
        >>> EarlyStop(("bored",))
        Traceback (most recent call last):
            ...
        noiseward.errors.ArgumentError: unknown stop 'bored'; available: hacked, plateau
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in STOPS:
                raise ArgumentError(f"unknown stop '{name}'; {choices(name, STOPS)}")
        self.names = tuple(names)

    def end(
        self,
        steps: Iterable[Step],
        ended: dict[int, Status],
        *,
        start: Checkpoint | None = None,
        history: Sequence[Record] = (),
    ) -> Iterator[Step]:
        """Pass steps on until every row has ended.

        Arguments:
            steps: of a run, or of the rest of one.
            ended: rows that end are entered here, where `iterate` sees them.
            start: where the steps continue, for the rest of a run.
            history: the records before.
        """
        kept = start.best if start else None
        ours = {stop.status for stop in STOPS.values()}
        ended |= {row: status for row, status in enumerate(start.status if start else ()) if status in ours}
        past = list(history)
        for step in steps:
            best, rows = step.best, range(len(step.status))
            past = [*(record for record in past if record["index"] < step.index), step.record()]
            running = (row for row in rows if step.status[row] is Status.RUNNING)
            new = {row: stop for row in running if (stop := self._find(past, row))}
            if Status.HACKED in {stop.status for stop in new.values()}:
                hacked = [find_hacking(past, row) if row in new and new[row].name == "hacked" else None for row in rows]
                best = best_before_hacking(best, step.peaks, hacked)
            if kept is not None and ended:
                best = kept.select(torch.tensor([row in ended for row in rows]), best)
            ended |= {row: stop.status for row, stop in new.items()}
            kept = best
            status = tuple(new[row].status if row in new else old for row, old in enumerate(step.status))
            over = Status.RUNNING not in status
            yield dataclasses.replace(step, best=best, status=status, next_noise=None if over else step.next_noise)
            if over:
                return

    def _find(self, history: Sequence[Record], row: int) -> Stop | None:
        """What ends a row with the last of these records."""
        return next((STOPS[name] for name in self.names if STOPS[name].ends(history, row)), None)
