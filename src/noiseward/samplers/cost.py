"""Cost, in denoiser calls: counted where they are made, by the meters that are open there.

    with count_calls() as meter:
        sampler(noise).sum().backward()
    meter.nfe

A gradient comes back after the call it belongs to has returned, possibly on another thread, so a return value cannot
hold its cost. Instead a call remembers the meter open at the time, and its gradient and its recomputation are counted
there whenever they happen. Meters nest, and what one counts all around it count too. They only ever add: what belongs
to no run, such as discovery, is counted apart, and so is what belongs to several rows, of which each row's share is
then added. Across processes (`loop/executor.py`) the cost is returned with the result.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

__all__ = ["NFE", "Meter", "count_calls", "current_meter"]


@dataclasses.dataclass(frozen=True)
class NFE:
    """Number of denoiser calls one row took part in; a call on a whole batch counts once, one with several candidates
    of the row as often.

    Arguments:
        forward: calls made by the sampler.
        backward: gradients pulled back through a call.
        recomputed: calls repeated for a gradient; what its blocks recompute beyond that is not counted.

    Example:
        >>> (NFE(20, 20) + NFE(20) * 2).cost
        100
    """

    forward: int = 0
    backward: int = 0
    recomputed: int = 0

    def __add__(self, other: NFE) -> NFE:
        return NFE(self.forward + other.forward, self.backward + other.backward, self.recomputed + other.recomputed)

    def __mul__(self, times: int) -> NFE:
        return NFE(self.forward * times, self.backward * times, self.recomputed * times)

    @property
    def cost(self) -> int:
        """In forward calls: a forward counts 1, a backward 2, a recomputed forward 1."""
        return self.forward + 2 * self.backward + self.recomputed


class Meter:
    """Counts calls as they happen; `nfe` is the sum so far.

    Arguments:
        outer: a meter that counts them too.
    """

    def __init__(self, outer: Meter | None = None) -> None:
        self.nfe, self._outer = NFE(), outer

    def count(self, nfe: NFE) -> None:
        """Add some calls."""
        self.nfe += nfe
        if self._outer is not None:
            self._outer.count(nfe)

    def join(self, outer: Meter) -> None:
        """Let another meter count too: what was counted so far, and what comes."""
        self._outer = outer
        outer.count(self.nfe)


_METER = contextvars.ContextVar[Meter | None]("the meter that is open", default=None)


@contextlib.contextmanager
def count_calls(*, apart: bool = False) -> Iterator[Meter]:
    """Count the denoiser calls made in the body of a `with`, and their gradients whenever they come.

    Arguments:
        apart: do not count them in the meters around this one.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> with count_calls() as meter:
        ...     sample = sampler(sampler.init(1).requires_grad_())
        >>> sample.sum().backward()
        >>> meter.nfe
        NFE(forward=4, backward=4, recomputed=0)
    """
    meter = Meter(None if apart else _METER.get())
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def current_meter() -> Meter:
    """The meter that is open; an unused one where none is."""
    return _METER.get() or Meter()
