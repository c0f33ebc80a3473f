"""MLflow. `MLFLOW_TRACKING_URI` says where to; without it, it is MLflow's own default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from noiseward.trackers.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MLflow"]

LONGEST = 500  # characters of a parameter
_MARKS = str.maketrans({"(": " ", ")": ""})  # which names of metrics may not have


@final
class MLflow(Tracker):
    """A run of MLflow, in the experiment that has the project's name. One that is resumed is another run of that name.

    Arguments:
        run: what is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self._client.create_experiment(run.project)
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        for name, value in run.config.items():
            self._client.log_param(self._id, name, str(value)[:LONGEST])

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._id, name.translate(_MARKS), value, step=step)

    def log_images(self, images: Mapping[str, Image], step: int) -> None:
        for name, image in images.items():
            self._client.log_image(self._id, image, artifact_file=f"{name}/{step:05d}.png")

    def log_table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        self._client.log_dict(self._id, {"rows": [dict(row) for row in rows]}, "results.json")

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
