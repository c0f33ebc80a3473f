r"""The panel: rewards that look on. They score the samples of a run and are never climbed.

Whatever is climbed long enough is pleased by pictures that please nobody else. A panel of held-out rewards
:math:`w_1 \dots w_n` shows it: the target still rises, and they fall. For one row, with target :math:`r_k` and held-out
scores :math:`w_k` at the watched steps k, and p the last step at which w was highest, w **falls** if

1. at least 4 watched steps follow p, and the target's best among them is above its best up to p;
2. the mean of the last quarter of those scores is further below :math:`w_0`, that of the picture before anything was
   climbed, than :math:`w_p` was above it, by more than 3 times the jitter of w, which is the median of
   :math:`|w_{k-1} - 2 w_k + w_{k+1}|`, nothing for a straight line;
3. target and w go opposite ways after p: their rank correlation is below -0.5.

Statistics of pixels, such as contrast or the size as a JPEG, look on and have no say: they fall for honest reasons, as
contrast does where a picture is to be bright. If more than half of the others fall, that is called likely reward
hacking, from the first watched step after which more than half are past their peaks. The best before that is the step
with the highest value up to there; its noise is kept along the way.

The rule is one of thumb, and looks at one row at a time. How often it is right was measured on the built-in model
(`experiments/panel_rule.py`, 96 pictures, by a model that neither climbed nor watched): it speaks of 33 of 36 pictures
that lost their noun, and of 17 of 60 that did not. With contrast and the JPEG's size having a say it would be 13 and 9,
with these two alone 1 and 8; and were a fall below the peak enough, 34 and 31. It was chosen on these same pictures; on
78 fresh ones it speaks of 21 of 22 and of 22 of 56.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.loop import Best, Step
from noiseward.rewards.reward import Reward, check_rows, score
from noiseward.samplers.sampler import Prompt, expand_prompts

__all__ = ["Panel", "PanelState", "Hacking", "best_before_hacking", "find_hacked", "find_hacking"]

AFTER = 4  # watched steps after a peak before anything is said
JITTERS = 3.0
OPPOSITE = -0.5


@dataclasses.dataclass(frozen=True)
class PanelState:
    """What a panel has seen before a run goes on.

    Attributes:
        highest: the highest score of each held-out reward, `(B,)`.
        peaks: the best of each row when it was reached.
    """

    highest: Mapping[str, Tensor]
    peaks: Mapping[str, Best]


@final
class Panel:
    """Held-out rewards beside a run.

    Arguments:
        rewards: they are called under `torch.no_grad()`; black boxes are welcome.
        prompt: the run's.
        every: watch every so many steps, and the last.

    Example:
        >>> from noiseward.toys import Linear
        >>> Panel([Linear(1.0)], every=5).names
        ('linear',)
    """

    def __init__(self, rewards: Sequence[Reward], *, prompt: Prompt = None, every: int = 1) -> None:
        if every < 1:
            raise ArgumentError(f"watch_every={every} given: at least 1 wanted")
        self.rewards, self.prompt, self.every = tuple(rewards), prompt, every
        self.names = tuple(reward.name for reward in rewards)
        self.silent = tuple(reward.name for reward in rewards if reward.statistic)
        self._rows_checked = False
        if len(set(self.names)) < len(self.names):
            raise ArgumentError(f"two watched rewards have the same name ({', '.join(self.names)}): watch each once")

    def watch(self, steps: Iterable[Step], seen: PanelState | None = None) -> Iterator[Step]:
        """Pass steps on, with what the panel saw: `Step.watched` and `Step.peaks`.

        Arguments:
            steps: of a run, or of the rest of one.
            seen: what it saw of the run before these.
        """
        peaks = dict(seen.peaks) if seen else {}
        highest = dict(seen.highest) if seen else {}
        for step in steps:
            scores = {}
            if self.rewards and (step.index % self.every == 0 or step.next_noise is None):
                scores = self.scores(step.evaluation.sample)
            for name, new in scores.items():
                was = highest.get(name, torch.full_like(new, -torch.inf))
                higher = new >= was
                highest[name] = torch.where(higher, new, was)
                peaks[name] = _chosen(higher, step.best, peaks[name]) if name in peaks else step.best
            yield dataclasses.replace(step, watched=scores, peaks=dict(peaks), silent=self.silent)

    def scores(self, sample: Tensor) -> dict[str, Tensor]:
        """Each reward's scores `(B,)` of samples."""
        said = expand_prompts(self.prompt, sample.shape[0])
        with torch.no_grad():
            scores = {reward.name: score(reward, sample.detach(), said)[0].detach() for reward in self.rewards}
            if not self._rows_checked and sample.shape[0] > 1:
                for reward in self.rewards:
                    check_rows(reward, sample, said, scores)
                self._rows_checked = True
            return scores


def _chosen(rows: Tensor, yes: Best, no: Best) -> Best:
    """The rows of one where `rows` is true, of the other elsewhere."""

    def pick(one: Tensor, other: Tensor) -> Tensor:
        return torch.where(rows.to(one.device).view(-1, *(1,) * (one.ndim - 1)), one, other)

    fields = (field.name for field in dataclasses.fields(Best))
    return Best(**{name: pick(getattr(yes, name), getattr(no, name)) for name in fields})


@dataclasses.dataclass(frozen=True)
class Hacking:
    """That a row's target likely left what it stands for.

    Attributes:
        since: the first watched step past the peaks of more than half of the panel.
        before: the best step until then.
        falling: the held-out rewards that fall, and `peak`, the one whose peak ends the good time.
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
    """What a run's records say of a row; None if nothing is wrong, or nothing was watched.

    Arguments:
        history: records as `Step.record` gives them.
        row: which.
    """
    watched = [record for record in history if record.get("watched")]
    names = [name for name in watched[0]["watched"] if name not in watched[0].get("silent", ())] if watched else []
    indices = [record["index"] for record in watched]
    target = [_number(record["reward"][row]) for record in watched]
    past: dict[str, int] = {}
    for name in names:
        place = _falls_from(target, [_number(record["watched"][name][row]) for record in watched])
        if place is not None:
            past[name] = place
    majority = len(names) // 2 + 1
    if len(past) < majority:
        return None
    name = sorted(past, key=lambda each: past[each])[majority - 1]
    place = past[name]
    return Hacking(indices[place + 1], watched[place]["found"][row], tuple(past), name)


def find_hacked(history: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """By row, the step from which a run's records say that its reward was hacked; rows without are left out."""
    rows = range(len(history[0]["reward"]))
    return {row: said.since for row in rows if (said := find_hacking(history, row))}


def best_before_hacking(best: Best, peaks: Mapping[str, Best], verdicts: Sequence[Hacking | None]) -> Best:
    """The best of each row, and in rows with a verdict the best before that."""
    for name in {said.peak for said in verdicts if said}:
        rows = torch.tensor([said is not None and said.peak == name for said in verdicts])
        best = _chosen(rows, peaks[name], best)
    return best


def _falls_from(target: Sequence[float], scores: Sequence[float]) -> int | None:
    """The place of the last peak of scores, if they fall from there while the target rises."""
    fine = [k for k, pair in enumerate(zip(target, scores, strict=True)) if all(map(math.isfinite, pair))]
    if len(fine) <= AFTER:
        return None
    peak = max(fine, key=lambda k: (scores[k], k))
    after = [k for k in fine if k > peak]
    if len(after) < AFTER or max(target[k] for k in after) <= max(target[k] for k in fine if k <= peak):
        return None
    bends = [abs(scores[a] - 2 * scores[b] + scores[c]) for a, b, c in zip(fine, fine[1:], fine[2:], strict=False)]
    last = statistics.fmean(scores[k] for k in after[-max(1, len(after) // 4) :])
    start = scores[fine[0]]
    fallen = start - last > (scores[peak] - start) + JITTERS * statistics.median(bends)
    apart = _rank_correlation([target[k] for k in after], [scores[k] for k in after])
    return peak if fallen and apart < OPPOSITE else None


def _rank_correlation(one: Sequence[float], two: Sequence[float]) -> float:
    """Spearman's; 0 where one of them does not change."""
    if min(len(set(one)), len(set(two))) < 2:
        return 0.0
    ranks = [[sum(b < a for b in part) + sum(b == a for b in part) / 2 for a in part] for part in (one, two)]
    return statistics.correlation(*ranks)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
