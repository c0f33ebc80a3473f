"""Means with intervals: Student's, at 95%."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Interval", "interval", "rank"]

# Student's 97.5% quantiles by degrees of freedom; of those between, the larger is taken.
T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 15: 2.13, 23: 2.07,
     31: 2.04, 63: 2.00, 127: 1.98, 511: 1.96}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95% interval; nan where one number says nothing of its spread, or of none."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "none"
        return f"{self.mean:.3g}" if math.isnan(self.half) else f"{self.mean:.3g} ± {self.half:.2g}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% interval.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, half=2.482..., n=3)
    """
    count, mean = len(values), statistics.fmean(values) if values else math.nan
    if count < 2:
        return Interval(mean, math.nan, count)
    quantile = next(t for freedom, t in sorted(T.items(), reverse=True) if freedom <= count - 1)
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def rank(
    values: Mapping[str, Sequence[float]], *, counts: Callable[[float], bool] = lambda value: True
) -> dict[str, int]:
    """Ranks of methods from their values for the same cases: one more than the number of those significantly better.

    Significantly: the 95% interval of the mean difference is above zero. Methods whose difference is not significant
    share a rank. Of many pairs some differ by chance.

    Arguments:
        values: of each method.
        counts: whether a value is one at all. A method with significantly more that are is better; where neither is,
            values are compared in cases where both are.

    Example:
        >>> rank({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.1, 4.0], "c": [2.1, 3.0, 4.1]})
        {'a': 3, 'b': 1, 'c': 1}
    """

    def is_better(one: Sequence[float], two: Sequence[float]) -> bool:
        more = interval([counts(a) - counts(b) for a, b in zip(one, two, strict=True)])
        if abs(more.mean) > more.half:
            return more.mean > 0
        difference = interval([a - b for a, b in zip(one, two, strict=True) if counts(a) and counts(b)])
        return difference.mean - difference.half > 0  # false for one case, where the half-width is nan

    return {
        method: 1 + sum(is_better(values[other], own) for other in values if other != method)
        for method, own in values.items()
    }
