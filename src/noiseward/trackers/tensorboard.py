"""TensorBoard: event files in the folder `tensorboard` of a run, for `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy

from noiseward.trackers.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["TensorBoard"]


@final
class TensorBoard(Tracker):
    """Writes event files.

    Arguments:
        run: what is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        self._writer.add_text("config", _as_markdown([{"option": k, "value": v} for k, v in run.config.items()]))

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        for name, image in images.items():
            self._writer.add_image(name, numpy.asarray(image.convert("RGB")), step, dataformats="HWC")

    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        self._writer.add_text("results", _as_markdown(rows), step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


def _as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
