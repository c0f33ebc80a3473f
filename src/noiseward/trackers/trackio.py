"""Trackio: a local dashboard, `trackio show`; `TRACKIO_DIR` says where it keeps its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from noiseward.trackers.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Trackio"]


@final
class Trackio(Tracker):
    """A run of Trackio; the same one again where a run is resumed.

    Arguments:
        run: what is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        self._run = self._trackio.init(
            project=run.project, name=run.name, config=dict(run.config), resume="allow", embed=False
        )

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        self._run.log({name: self._trackio.Image(image) for name, image in images.items()}, step=step)

    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        columns = list(rows[0]) if rows else []
        table = self._trackio.Table(columns=columns, data=[list(row.values()) for row in rows])
        self._run.log({"results": table}, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish()
