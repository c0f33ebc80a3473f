"""What judges answered, and why: records that a run directory keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from noiseward.rewards.reward import Composite, Reward

__all__ = ["Journal", "find_journals", "find_parts"]


@final
class Journal:
    """Records of plain data, in the order in which they were answered.

    Arguments:
        price: what so many tokens read and written cost.

    Example:
        >>> journal = Journal()
        >>> journal.add({"score": 0.5, "tokens": [900, 40]})
        >>> journal.take(), journal.take()
        ([{'score': 0.5, 'tokens': [900, 40], 'cost': 0.0}], [])
    """

    def __init__(self, price: Callable[[int, int], float] = lambda *tokens: 0.0) -> None:
        self._price, self._new = price, list[dict[str, Any]]()

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record; its cost follows from its tokens."""
        self._new.append({**record, "cost": self._price(*record["tokens"])})

    def take(self) -> list[dict[str, Any]]:
        """The records since the last time."""
        new, self._new = self._new, []
        return new


def find_parts(reward: Reward) -> Iterator[Reward]:
    """A reward, and those it is made of.

    Example:
        >>> from noiseward.rewards.parse import parse_rewards
        >>> [part.name for part in find_parts(parse_rewards(["darkness:clamp=0.5", "jpeg"]))]
        ['1 darkness + 1 jpeg', 'darkness', 'darkness', 'jpeg']
    """
    yield reward
    inner = getattr(reward, "reward", None)
    parts = reward.parts if isinstance(reward, Composite) else [inner] if isinstance(inner, Reward) else []
    for part in parts:
        yield from find_parts(part)


def find_journals(reward: Reward) -> Iterator[tuple[Reward, Journal]]:
    """The parts of a reward that keep a journal, with it."""
    for part in find_parts(reward):
        journal = getattr(part, "journal", None)
        if isinstance(journal, Journal):
            yield part, journal
