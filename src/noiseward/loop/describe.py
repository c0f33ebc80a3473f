"""What is said of a run's rows, from their records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from noiseward.rewards.shortfall import is_met

__all__ = ["ADVICE", "SUSPECT", "UNTESTED_IMAGES", "describe_peak", "describe_stall"]

SUSPECT = 1e-3  # noise whose strict probability is lower is marked
ADVICE = (
    "the noise drifted out of distribution, and the image may have too: compare it with the start, or try fewer steps, "
    "a smaller lr, or a projection (norm, spectral)"
)
UNTESTED_IMAGES = "images were not tested, their noise alone was"


def describe_peak(history: Sequence[Mapping[str, Any]], row: int) -> str | None:
    """Describe what scored higher than the best of a row and failed a test, from the records; None if nothing did.

    Example:
        >>> start = {"index": 0, "value": [0.5], "reward": [0.5], "found": [0], "strict": [0.6], "image": [0.7]}
        >>> step = {"index": 1, "value": [0.9], "reward": [0.9], "found": [0], "strict": [0.6], "image": [1e-5]}
        >>> describe_peak([start, step], 0)
        'step 1 reached 0.9, but the model would not make such an image (P(image) 1e-05): the best plausible one ...'
    """
    tested = [record for record in history if "strict" in record]
    if not tested:
        return None
    highest = max(tested, key=lambda record: -math.inf if math.isnan(record["value"][row]) else record["value"][row])
    found = {record["index"]: record for record in tested}.get(tested[-1]["found"][row])
    if found is None or not highest["value"][row] > found["value"][row] or not is_met(highest["reward"][row]):
        return None
    image, strict = highest["image"][row], highest["strict"][row]
    why = f"its noise is out of distribution (strict P(z) {strict:.1g})"
    if image is not None:
        why = f"the model would not make such an image (P(image) {image:.1g})"
    return f"step {highest['index']} reached {highest['reward'][row]:.4g}, but {why}: the best plausible one was kept"


def describe_stall(history: Sequence[Mapping[str, Any]], row: int) -> str | None:
    """Describe a row whose direction was zero at some steps, from their records; None if at none.

    Example:
        >>> describe_stall([{"grad_norm": [0.0]}, {"grad_norm": [2.0]}, {"grad_norm": None}], 0)
        'the gradient was zero at 1 of 2 steps, so the noise did not change: the reward is flat there (clamped, ...'
    """
    norms = [record["grad_norm"][row] for record in history if record["grad_norm"] is not None]
    if 0.0 not in norms:
        return None
    return (
        f"the gradient was zero at {norms.count(0.0)} of {len(norms)} steps, so the noise did not change: the reward "
        "is flat there (clamped, saturated or rounded), or all candidates of an estimator scored the same (try a "
        "larger scale)"
    )
