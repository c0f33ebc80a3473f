"""Weights & Biases. Its own variables say where to: `WANDB_MODE=offline` keeps everything in the run's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from noiseward.trackers.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["WandB"]


@final
class WandB(Tracker):
    """A run of Weights & Biases; the same one again where a run is resumed.

    Arguments:
        run: what is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        run.folder.mkdir(parents=True, exist_ok=True)
        known = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:12]
        self._run = self._wandb.init(
            project=run.project, name=run.name, dir=str(run.folder), config=dict(run.config), id=known, resume="allow"
        )

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        self._run.log({name: self._wandb.Image(image, caption=f"step {step}") for name, image in images.items()})

    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        columns: list[Any] = list(rows[0]) if rows else []
        self._run.log({"results": self._wandb.Table(columns=columns, data=[list(row.values()) for row in rows])})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
