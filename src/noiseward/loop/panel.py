r"""The panel: held-out rewards. They score the samples of a run, are never optimized, and warn when they drop.

A reward that is optimized for long enough is raised by images that no other judge would rate higher. A panel of
held-out rewards shows it; the rule is in `hacking.py`. The best before that is the step with the highest value up to
there; its noise is kept along the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.hacking import Hacking
from noiseward.loop.step import Best, Step
from noiseward.rewards.reward import Reward, check_rows, score
from noiseward.samplers.sampler import Prompt, expand_prompts

__all__ = ["Panel", "PanelState", "best_before_hacking"]


@dataclasses.dataclass(frozen=True)
class PanelState:
    """What a panel needs to continue.

    Attributes:
        highest: the highest score of each held-out reward, `(B,)`.
        peaks: the best of each row when it was reached.
    """

    highest: Mapping[str, Tensor]
    peaks: Mapping[str, Best]


@final
class Panel:
    """Held-out rewards next to a run.

    Arguments:
        rewards: they are called under `torch.no_grad()`; black boxes are welcome.
        prompt: the run's.
        every: score every so many steps, and the last.

    Example:
        >>> from noiseward.toys import Linear
        >>> Panel([Linear(1.0)], every=5).names
        ('linear',)
    """

    def __init__(self, rewards: Sequence[Reward], *, prompt: Prompt = None, every: int = 1) -> None:
        if every < 1:
            raise ArgumentError(f"watch_every must be >= 1, got {every}")
        self.rewards, self.prompt, self.every = tuple(rewards), prompt, every
        self.names = tuple(reward.name for reward in rewards)
        self.silent = tuple(reward.name for reward in rewards if reward.statistic)
        self._rows_checked = False
        if len(set(self.names)) < len(self.names):
            raise ArgumentError(f"watched rewards must have different names, got {', '.join(self.names)}")

    def watch(self, steps: Iterable[Step], state: PanelState | None = None) -> Iterator[Step]:
        """Pass steps on with their scores: `Step.watched` and `Step.peaks`.

        Arguments:
            steps: of a run, or of the rest of one.
            state: of the panel before these.
        """
        peaks = dict(state.peaks) if state else {}
        highest = dict(state.highest) if state else {}
        for step in steps:
            scores = {}
            if self.rewards and (step.index % self.every == 0 or step.next_noise is None):
                scores = self.scores(step.evaluation.sample)
            for name, new in scores.items():
                old = highest.get(name, torch.full_like(new, -torch.inf))
                higher = new >= old
                highest[name] = torch.where(higher, new, old)
                peaks[name] = step.best.select(higher, peaks[name]) if name in peaks else step.best
            yield dataclasses.replace(step, watched=scores, peaks=dict(peaks), silent=self.silent)

    def scores(self, sample: Tensor) -> dict[str, Tensor]:
        """Each reward's scores `(B,)` of samples."""
        prompts = expand_prompts(self.prompt, sample.shape[0])
        with torch.no_grad():
            scores = {reward.name: score(reward, sample.detach(), prompts)[0].detach() for reward in self.rewards}
            if not self._rows_checked and sample.shape[0] > 1:
                for reward in self.rewards:
                    check_rows(reward, sample, prompts, scores)
                self._rows_checked = True
            return scores


def best_before_hacking(best: Best, peaks: Mapping[str, Best], hacking: Sequence[Hacking | None]) -> Best:
    """The best of each row; before the hacking, in rows where there was any."""
    for name in {one.peak for one in hacking if one}:
        rows = torch.tensor([one is not None and one.peak == name for one in hacking])
        best = peaks[name].select(rows, best)
    return best
