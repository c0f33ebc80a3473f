"""Prompts that know their row: how an argument with one entry per row follows the row it belongs to.

A batch of P prompts with B rows each is sampled whole, in pieces, or row by row, and its rows are repeated and selected
(`Objective.rows`). What travels with a row through all of this is its prompt. An `Entry` is a prompt that also knows
its number among the prompts and among the rows, so a sampler can look up the row's entry in a list of P or of P * B:
its negative prompt, its image, its embedding. Rewards get plain strings (:func:`plain_prompts`).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Entry", "number_prompts", "plain_prompts", "remove_text"]


class Entry(str):
    """The prompt of a row.

    Attributes:
        places: `(index, count)` pairs: the row is number `index` of `count` prompts, or of `count` rows.
        silent: there is no prompt; the text is empty.

    Example:
        >>> entry = Entry("a duck", ((1, 2), (5, 8)))
        >>> entry, entry.among(2), entry.among(8), entry.among(3)
        ('a duck', 1, 5, None)
    """

    places: tuple[tuple[int, int], ...]
    silent: bool

    def __new__(cls, text: str = "", places: tuple[tuple[int, int], ...] = (), *, silent: bool = False) -> Entry:
        entry = super().__new__(cls, text)
        entry.places, entry.silent = places, silent
        return entry

    def among(self, count: int) -> int | None:
        """The row's number in a list of `count` entries; None if such a list has no entry for it."""
        return next((index for index, of in self.places if of == count), None)


def number_prompts(prompts: Sequence[str] | None, rows: int, *, batch: int | None = None) -> list[Entry]:
    """The prompts of a batch, one per row, each with its number; rows that have one keep it.

    Arguments:
        prompts: one per row, or None.
        rows: how many there are.
        batch: how many rows in succession share a prompt; default: each row has its own.

    Example:
        >>> [entry.places for entry in number_prompts(["a", "a", "b", "b"], 4, batch=2)][1]
        ((0, 2), (1, 4))
    """
    batch = batch or 1
    places = [((row // batch, rows // batch), (row, rows)) for row in range(rows)]
    if prompts is None:
        return [Entry("", place, silent=True) for place in places]
    pairs = zip(prompts, places, strict=True)
    return [text if isinstance(text, Entry) else Entry(text, place) for text, place in pairs]


def remove_text(prompt: str) -> str:
    """The empty prompt of the same row.

    Example:
        >>> remove_text("a duck"), remove_text(Entry("a duck", ((1, 2),))).places
        ('', ((1, 2),))
    """
    return Entry("", prompt.places, silent=prompt.silent) if isinstance(prompt, Entry) else ""


def plain_prompts(prompts: Sequence[str] | None) -> list[str] | None:
    """The prompts as plain strings, or None where there are none."""
    if prompts is None or any(isinstance(text, Entry) and text.silent for text in prompts):
        return None
    return [str(text) for text in prompts]
