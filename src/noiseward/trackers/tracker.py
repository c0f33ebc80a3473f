"""What a tracker does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TrackedRun", "Tracker"]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker receives of a run.

    Attributes:
        name: of the run; the same again where it is resumed, which continues the run of trackers that can do so.
        project: that it belongs to.
        folder: where files may be kept.
        config: what was asked, as plain data.
    """

    name: str
    project: str = "noiseward"
    folder: Path = Path("runs")
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Tracker(ABC):
    """Where numbers and images of one run go."""

    @abstractmethod
    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step by name."""

    @abstractmethod
    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        """Take images by name."""

    @abstractmethod
    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Take the final table, whose rows have the same columns."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """End the run, which failed or not."""
