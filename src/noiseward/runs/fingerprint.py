"""Whether the model there is now is the one a run was made with."""

from __future__ import annotations

from torch import Tensor

from noiseward.errors import RunError
from noiseward.problem import Problem
from noiseward.runs.store import RunFolder
from noiseward.samplers.fingerprint import compute_fingerprint

__all__ = ["check_model"]


def check_model(folder: RunFolder, problem: Problem, noise: Tensor) -> None:
    """Raise `RunError` unless a problem is that of a run: noise of the same layout, a model of the same weights."""
    try:
        problem.objective.sampler.layout.check(noise)
    except ValueError as error:
        raise RunError(f"{folder.path} was run with another model or other arguments: {error}") from None
    known = folder.read("env.json").get("fingerprint")
    if known and known != compute_fingerprint(problem.objective.sampler):
        raise RunError(
            f"{folder.path} was run with other weights than '{folder.spec().model}' has now; restore them, or run again"
        )
