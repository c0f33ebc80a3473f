"""What was asked of a run, as its results say it: for images, reports, and people who find a result later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["About"]


@dataclasses.dataclass(frozen=True)
class About:
    """What was asked of a run.

    Attributes:
        prompts: one per row; none for a model without prompts.
        seeds: one per row, where they are known.
        reward: its name.
        method: its text; empty where it has none.
        model: its name, folder or class.
        call: arguments of the pipeline's call, by name.

    Example:
        >>> About(("a duck", "a heart"), (0, 0)).title(1)
        'a heart, seed 0'
    """

    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    reward: str = ""
    method: str = ""
    model: str = ""
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def prompt(self, row: int) -> str:
        """The prompt of a row; empty where there is none."""
        return self.prompts[row] if row < len(self.prompts) else ""

    def title(self, row: int) -> str:
        """Prompt and seed of a row, as far as they are known; else its number."""
        parts = [self.prompt(row), f"seed {self.seeds[row]}" if row < len(self.seeds) else ""]
        return ", ".join(filter(None, parts)) or f"row {row}"
