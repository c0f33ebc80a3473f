"""Steps, passed on while a tracker takes what they say.

* Numbers, every step: `reward`, `best`, `P(z)`, `P(image)` where it was tested, `grad_norm` where there is a gradient,
  watched rewards, and `NFE`. Rows of a batch follow a slash, as in `reward/0`.
* Images: the best of each row, at the start, at the end, and between them when there is a better one, but not more
  often than every few seconds.
* A table at the end: prompt, seed, reward before and after, P(z), P(image), the step it was found at, what ended it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from noiseward.loop.about import About
from noiseward.loop.step import Step
from noiseward.rewards.shortfall import is_met
from noiseward.trackers.tolerant import Tolerant
from noiseward.trackers.tracker import Tracker

__all__ = ["track"]

EVERY = 10.0  # seconds between two writings of images


def track(
    steps: Iterable[Step], tracker: Tracker, about: About, *, before: list[float] | None = None
) -> Iterator[Step]:
    """Pass steps on, telling a tracker of each.

    Arguments:
        steps: of a run, or of the rest of one.
        tracker: takes numbers, images and the table; it is closed at the end, however that comes.
        about: what was asked.
        before: the rewards of the start, where these steps are the rest of a run.
    """
    tracker = Tolerant(tracker)
    last, shown, written, failed = None, -math.inf, -1, False
    try:
        for step in steps:
            before = before or step.evaluation.reward.tolist()
            tracker.log_numbers(_numbers(step), step.index)
            newest = int(step.best.index.max())
            if newest != written and time.monotonic() - shown > EVERY:
                _show(step, tracker)
                shown, written = time.monotonic(), newest
            last = step
            yield step
    except Exception:
        failed = True
        raise
    finally:
        if last is not None:
            if int(last.best.index.max()) != written:
                _show(last, tracker)
            tracker.log_table(_rows(last, about, before or []), last.index)
        tracker.close(failed=failed)


def _numbers(step: Step) -> dict[str, float]:
    """Finite numbers of a step by name."""
    columns = {
        "reward": step.evaluation.reward,
        "best": step.best.reward,
        "P(z)": step.probability,
        **({} if step.verdict is None else {"P(image)": step.verdict.image}),
        **({} if step.grad_norm is None else {"grad_norm": step.grad_norm}),
        **{f"watched {name}": scores for name, scores in step.watched.items()},
    }
    numbers = {"NFE": float(step.nfe.cost)}
    for name, column in columns.items():
        values = column.tolist()
        for row, value in enumerate(values):
            if math.isfinite(value) and is_met(value) and not (name == "P(image)" and value < 0):  # -1: untested
                numbers[name if len(values) == 1 else f"{name}/{row}"] = value
    return numbers


def _show(step: Step, tracker: Tracker) -> None:
    from noiseward.images import has_images, to_images

    if has_images(step.best.sample):
        images = to_images(step.best.sample)
        names = ["best"] if len(images) == 1 else [f"best/{row}" for row in range(len(images))]
        tracker.log_images(dict(zip(names, images, strict=True)), step.index)


def _rows(step: Step, about: About, before: list[float]) -> list[dict[str, Any]]:
    best = step.best
    return [
        {
            "row": row,
            "prompt": about.prompt(row),
            "seed": about.seeds[row] if row < len(about.seeds) else None,
            "before": before[row] if is_met(before[row]) else None,
            "best": reward if is_met(reward := best.reward[row].item()) else None,
            "P(z)": best.probability[row].item(),
            "P(image)": None if best.image[row] < 0 else best.image[row].item(),
            "step": int(best.index[row]),
            "ended by": step.status[row].name.lower(),
        }
        for row in range(len(before))
    ]
