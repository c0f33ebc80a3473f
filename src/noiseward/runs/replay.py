"""Sample the images of a run again, from its noise."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version

import torch
from torch import Tensor

from noiseward import __version__
from noiseward.problem import prepare_spec
from noiseward.runs.consistency import check_recorded, read_best
from noiseward.runs.fingerprint import check_model
from noiseward.runs.inputs import locate_inputs
from noiseward.runs.record import tolerance
from noiseward.runs.store import RunFolder
from noiseward.runs.write import LIBRARIES

__all__ = ["Replay", "changed_versions", "replay"]


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a run's best noise gives now.

    Attributes:
        sample: `(B, *X)`.
        reward: `(B,)`.
        identical: per row, whether the sample is the recorded one bit for bit.
        difference: the largest absolute difference of each row.
    """

    sample: Tensor
    reward: Tensor
    identical: list[bool]
    difference: list[float]


def replay(folder: RunFolder) -> Replay:
    """Sample and score the best noise of a run again.

    Raises:
        RunError: a file is missing or garbled, or the model is another one now.
    """
    spec = folder.spec()
    known, lines = read_best(folder, spec)[0], folder.lines()
    check_recorded(known, lines, folder.path / "best.safetensors", apart=tolerance(folder, spec))
    problem = prepare_spec(locate_inputs(spec, folder))
    check_model(folder, problem, known["noise"])
    with torch.no_grad():
        evaluation = problem.objective(known["noise"].to(problem.noise.device))
    sample = evaluation.sample.cpu()
    apart = (sample.double() - known["sample"].double()).abs().flatten(1).amax(1)
    identical = [torch.equal(now, then) for now, then in zip(sample, known["sample"], strict=True)]
    return Replay(sample, evaluation.reward.cpu(), identical, apart.tolist())


def changed_versions(folder: RunFolder) -> dict[str, tuple[str, str]]:
    """Versions that differ from those of the run: name to (then, now)."""
    then = folder.read("env.json")
    now = {"python": platform.python_version(), "noiseward": __version__, **{name: version(name) for name in LIBRARIES}}
    return {name: (str(then[name]), value) for name, value in now.items() if name in then and then[name] != value}
