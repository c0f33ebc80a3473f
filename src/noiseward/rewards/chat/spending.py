"""What a chat judge has cost, and how much it may cost."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

from noiseward.errors import ArgumentError, SpendingLimit
from noiseward.rewards.journal import find_parts
from noiseward.rewards.reward import Reward

__all__ = ["Spending", "limit_cost"]


@final
class Spending:
    """Counts calls and tokens of a judge, and stops it before a limit is passed.

    Requests that are under way count as what requests cost on average so far, so that concurrent ones do not pass the
    limit together. It is safe to use from several threads.

    Arguments:
        name: of the reward, for messages.
        max_calls: requests that may be answered; 0 for any number.
        max_cost: in the currency of the prices; 0 for any amount.
        price_in, price_out: of a million tokens read and written.

    Raises:
        ArgumentError: a negative number, or a limit on costs without prices.

    Example:
        >>> spending = Spending("chat", price_in=1.0, price_out=4.0)
        >>> with spending.reserve() as count:
        ...     count(1000, 50)
        >>> str(spending)
        '1 call, 1,050 tokens, 0.0012'
    """

    def __init__(
        self, name: str, *, max_calls: int = 0, max_cost: float = 0.0, price_in: float = 0.0, price_out: float = 0.0
    ) -> None:
        given = {"max_calls": max_calls, "max_cost": max_cost, "price_in": price_in, "price_out": price_out}
        for key, value in given.items():
            if not 0 <= value < math.inf:
                raise ArgumentError(f"{key} must be >= 0, got {value}")
        if max_cost and not (price_in or price_out):
            raise ArgumentError(
                "max_cost needs the prices of a million tokens, as in max_cost=1,price_in=0.15,price_out=0.6"
            )
        self.name, self.max_calls, self.max_cost = name, max_calls, max_cost
        self.price_in, self.price_out = price_in, price_out
        self.calls = self.tokens_in = self.tokens_out = 0
        self._under_way, self._lock = 0, threading.Lock()
        self._shared: tuple[Sequence[Spending], float] = ((), math.inf)

    @property
    def cost(self) -> float:
        """What was spent, in the currency of the prices."""
        return self.price(self.tokens_in, self.tokens_out)

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def share(self, judges: Sequence[Spending], most: float) -> None:
        """Let several judges, this one among them, cost at most an amount together."""
        self._shared = judges, most

    @contextlib.contextmanager
    def reserve(self) -> Iterator[Callable[[int, int], None]]:
        """Make room for one request in the body of a `with`, which gives what counts its tokens read and written.

        Raises:
            SpendingLimit: there is none.
        """
        with self._lock:
            begun = self._under_way + 1
            if self.max_calls and self.calls + begun > self.max_calls:
                raise SpendingLimit(f"reward '{self.name}' has made its {self.max_calls} calls; increase max_calls=")
            ahead = begun * self.cost / self.calls if self.calls else 0.0
            if self.max_cost and self.cost + ahead > self.max_cost:
                raise SpendingLimit(
                    f"reward '{self.name}' has cost {self.cost:.4g}, the next call would pass {self.max_cost:g}; "
                    "increase max_cost="
                )
            judges, most = self._shared
            spent = sum(each.cost for each in judges)
            if spent + ahead > most:
                raise SpendingLimit(
                    f"judges have cost {spent:.4g}, the next call would pass {most:g}; increase max_cost"
                )
            self._under_way = begun
        answers: list[tuple[int, int]] = []
        try:
            yield lambda tokens_in, tokens_out: answers.append((tokens_in, tokens_out))
        finally:
            with self._lock:  # together, so that no other request sees this one twice
                self._under_way -= 1
                self.calls += len(answers)
                self.tokens_in += sum(tokens_in for tokens_in, _ in answers)
                self.tokens_out += sum(tokens_out for _, tokens_out in answers)

    def __str__(self) -> str:
        calls = f"{self.calls} call{'' if self.calls == 1 else 's'}, {self.tokens_in + self.tokens_out:,} tokens"
        return calls + (f", {self.cost:.2g}" if self.price_in or self.price_out else "")


def limit_cost(rewards: Iterable[Reward], most: float) -> None:
    """Let all judges in some rewards cost at most an amount together.

    Raises:
        ArgumentError: none of them spends money.
    """
    found = [getattr(part, "spending", None) for reward in rewards for part in find_parts(reward)]
    judges = [each for each in dict.fromkeys(found) if isinstance(each, Spending)]
    if not judges:
        raise ArgumentError(f"max_cost {most:g} needs a reward that spends money, as chat, got none; leave it out")
    if not any(each.price_in or each.price_out for each in judges):
        example = f"{judges[0].name}:price_in=0.15,price_out=0.6"
        raise ArgumentError(f"max_cost {most:g} needs the prices of a million tokens, as in {example}")
    for each in judges:
        each.share(judges, most)
