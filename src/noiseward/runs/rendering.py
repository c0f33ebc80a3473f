"""Render the best noise of a run in another way: more steps, another solver, a larger image, neighbors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.objective import Objective
from noiseward.optimizers.candidates import draw_movable
from noiseward.optimizers.search import turn
from noiseward.pipelines.arguments import takes_path
from noiseward.pipelines.carry import AGAIN, carry_noise, change_sampler
from noiseward.problem import Problem, prepare_spec
from noiseward.runs.consistency import check_recorded, read_best
from noiseward.runs.fingerprint import check_model
from noiseward.runs.inputs import locate_inputs
from noiseward.runs.record import tolerance
from noiseward.runs.store import RunFolder

__all__ = ["Render", "render"]


@dataclasses.dataclass(frozen=True)
class Render:
    """One rendering of all rows of a run.

    Attributes:
        neighbor: 0 for the best noise itself, else the number of its neighbor.
        noise: `(B, *noise_shape)`, of the sampler that is rendered with.
        sample: `(B, *X)`.
        reward: `(B,)`.
        best: the reward of the run's best, `(B,)`.
    """

    neighbor: int
    noise: Tensor
    sample: Tensor
    reward: Tensor
    best: Tensor


def render(
    folder: RunFolder,
    *,
    seeds: int = 0,
    cosine: float = 0.95,
    scheduler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    **call: Any,
) -> Iterator[Render]:
    """Render the best noise of a run, and some neighbors of it.

    The noise is carried over where that is exact (`pipelines/carry.py`). Neighbors are turned from it by an angle, draw
    by draw, in directions that follow from the run's seeds.

    Arguments:
        folder: of the run.
        seeds: how many neighbors of each row's best noise.
        cosine: of the angle between the noise and its neighbors.
        scheduler: another one.
        height, width: of the image; one that is not given stays.
        call: other arguments of the pipeline's call: `num_inference_steps`.

    Yields:
        the best noise, then neighbor by neighbor.

    Raises:
        ArgumentError: the noise cannot be carried over exactly.
        RunError: a file is missing or garbled, or the model is another one now.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from noiseward.runs import RunSpec, execute
        >>> run = Path(tempfile.mkdtemp()) / "run"
        >>> spec = RunSpec(prompt="a duck", reward="brightness", steps=1, num_inference_steps=5)
        >>> _ = execute(spec, run, quiet=True)
        >>> [one.sample.shape[0] for one in render(RunFolder(run), num_inference_steps=10, seeds=1)]
        [1, 1]
    """
    spec = folder.spec()
    known, lines = read_best(folder, spec)[0], folder.lines()
    check_recorded(known, lines, folder.path / "best.safetensors", apart=tolerance(folder, spec))
    size: list[int] = []
    if height is not None or width is not None:
        sample = known["sample"]
        if sample.ndim != 4:
            raise ArgumentError(f"height and width are for images, got samples of shape {tuple(sample.shape[1:])}")
        if any(takes_path(name) and not name.startswith("ip_adapter") for name in spec.arguments):
            raise ArgumentError(f"height and width are those of the images that the run was given; {AGAIN}")
        size = [height or sample.shape[2], width or sample.shape[3]]
        call |= {"height": size[0], "width": size[1]}
    problem = prepare_spec(locate_inputs(spec, folder))
    check_model(folder, problem, known["noise"])
    objective, noise = _change(problem, known["noise"].to(problem.noise.device), scheduler=scheduler, **call)
    layout, angle = objective.sampler.layout, math.acos(cosine)
    for neighbor in range(seeds + 1):
        own = noise
        if neighbor:
            fresh = [draw_movable(noise, layout, problem.seeds, row, f"render {neighbor}") for row in range(len(noise))]
            own = torch.stack([turn(noise[row], xi, angle, layout) for row, xi in enumerate(fresh)])
        with torch.no_grad():
            evaluation = objective(own)
        if (now := list(evaluation.sample.shape[2:])) != list(size or now):
            raise ArgumentError(
                f"expected images of {size[1]} x {size[0]}, got {now[1]} x {now[0]}: the model needs multiples of a "
                "larger number; give another height and width"
            )
        yield Render(neighbor, own.cpu(), evaluation.sample.cpu(), evaluation.reward.cpu(), known["reward"])


def _change(problem: Problem, noise: Tensor, **changes: Any) -> tuple[Objective, Tensor]:
    """The objective of a problem with a sampler that is changed, and the noise for it."""
    old = problem.objective.sampler
    new = change_sampler(old, **changes)
    if new is old:
        return problem.objective, noise
    objective = Objective(new, problem.objective.reward, problem.objective.prompt)
    rest = new.init(len(noise), seed=list(problem.seeds.rows)).to(noise)
    return objective, carry_noise(noise, old, new, rest=rest)
