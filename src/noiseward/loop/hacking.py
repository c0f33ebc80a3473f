r"""Likely reward hacking, found in the records of a run whose held-out rewards were watched (`panel.py`).

A reward that is optimized for long enough is raised by images that no other judge would rate higher. A panel of
held-out rewards :math:`w_1 \dots w_n` shows it: the optimized reward still rises, and they fall. For one row, with the
optimized reward :math:`r_k` and held-out scores :math:`w_k` at the watched steps k, and p the last step at which w was
highest, w **falls** if

1. at least 4 watched steps follow p, and the best r among them is above the best r up to p;
2. the mean of the last quarter of those scores is further below :math:`w_0`, that of the start, than :math:`w_p` was
   above it, by more than 3 times the jitter of w, which is the median of :math:`|w_{k-1} - 2 w_k + w_{k+1}|` and zero
   for a straight line;
3. r and w go opposite ways after p: their rank correlation is below -0.5.

Statistics of pixels, such as contrast or the size as a JPEG, are watched but do not vote: they fall for honest reasons,
as contrast does where an image is to be bright. If more than half of the others fall, that is reported as likely reward
hacking, from the first watched step after which more than half are past their peaks. The best before that is the step
with the highest value up to there; its noise is kept along the way.

The rule is one of thumb, and looks at one row at a time. How often it is right, and with which other rules it was
compared, is in docs/rewards.md.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Hacking", "find_hacked", "find_hacking"]

AFTER = 4  # watched steps after a peak before anything is reported
JITTERS = 3.0
OPPOSITE = -0.5


@dataclasses.dataclass(frozen=True)
class Hacking:
    """Likely reward hacking in one row.

    Attributes:
        since: the first watched step past the peaks of more than half of the panel.
        before: the best step until then.
        falling: the held-out rewards that fall; `peak` is the one at whose peak the best was kept.
    """

    since: int
    before: int
    falling: tuple[str, ...]
    peak: str

    def __str__(self) -> str:
        fall = " and ".join(self.falling) + (" falls" if len(self.falling) == 1 else " fall")
        return (
            f"likely reward hacking from step {self.since} on, {fall} while the reward rises; best before that: "
            f"step {self.before}"
        )


def find_hacking(history: Sequence[Mapping[str, Any]], row: int) -> Hacking | None:
    """Find reward hacking in one row of a run's records (`Step.record`); None if there is none."""
    watched = [record for record in history if record.get("watched")]
    names = [name for name in watched[0]["watched"] if name not in watched[0].get("silent", ())] if watched else []
    rewards = [_number(record["reward"][row]) for record in watched]
    past: dict[str, int] = {}
    for name in names:
        peak = _find_peak(rewards, [_number(record["watched"][name][row]) for record in watched])
        if peak is not None:
            past[name] = peak
    majority = len(names) // 2 + 1
    if len(past) < majority:
        return None
    name = sorted(past, key=lambda each: past[each])[majority - 1]
    peak = past[name]
    return Hacking(watched[peak + 1]["index"], watched[peak]["found"][row], tuple(past), name)


def find_hacked(history: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """By row, the step from which its reward was likely hacked; rows without are left out."""
    rows = range(len(history[0]["reward"]))
    return {row: hacking.since for row in rows if (hacking := find_hacking(history, row))}


def _find_peak(rewards: Sequence[float], scores: Sequence[float]) -> int | None:
    """The position of the last peak of scores, if they fall from there while the reward rises."""
    fine = [k for k, pair in enumerate(zip(rewards, scores, strict=True)) if all(map(math.isfinite, pair))]
    if len(fine) <= AFTER:
        return None
    peak = max(fine, key=lambda k: (scores[k], k))
    after = [k for k in fine if k > peak]
    if len(after) < AFTER or max(rewards[k] for k in after) <= max(rewards[k] for k in fine if k <= peak):
        return None
    bends = [abs(scores[a] - 2 * scores[b] + scores[c]) for a, b, c in zip(fine, fine[1:], fine[2:], strict=False)]
    last = statistics.fmean(scores[k] for k in after[-max(1, len(after) // 4) :])
    start = scores[fine[0]]
    fallen = start - last > (scores[peak] - start) + JITTERS * statistics.median(bends)
    opposite = _rank_correlation([rewards[k] for k in after], [scores[k] for k in after]) < OPPOSITE
    return peak if fallen and opposite else None


def _rank_correlation(one: Sequence[float], two: Sequence[float]) -> float:
    """Spearman's; 0 where one of them does not change."""
    if min(len(set(one)), len(set(two))) < 2:
        return 0.0
    ranks = [[sum(b < a for b in part) + sum(b == a for b in part) / 2 for a in part] for part in (one, two)]
    return statistics.correlation(*ranks)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
