"""Is a sampler fit for noise optimization? The same questions for every model, each answered by measuring."""

from __future__ import annotations

import dataclasses
import time

import torch

from noiseward.align import Problem
from noiseward.errors import GradientError
from noiseward.estimate import Backprop
from noiseward.noise import Seeds

__all__ = ["Finding", "examine"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One answer.

    Arguments:
        fine: whether it is as it should be.
        says: the answer in a sentence.
    """

    fine: bool
    says: str


def examine(problem: Problem) -> list[Finding]:
    """Ask whether draws are seen, samples repeat, rows are independent, and gradients are right."""
    objective, noise = problem.objective, problem.noise[:1]
    sampler = objective.sampler
    layout = sampler.layout  # finding it out has already compared a replay with its recording
    dead = f"; without effect: {', '.join(layout.dead)}" if layout.dead else ""
    findings = [Finding(True, f"{len(layout)} draws of shape {layout.draws[0].shape} are seen and replayed{dead}")]
    with torch.no_grad():
        once, twice = objective(noise), objective(noise)
        pair = objective.repeat(2)(noise.expand(2, *noise.shape[1:]))
    same = torch.equal(once.sample, twice.sample)
    findings.append(
        Finding(same, "the same noise gives the same sample" + ("" if same else ": NO, results cannot be trusted"))
    )
    gap = (pair.sample - once.sample).abs().max().item()
    findings.append(Finding(gap < 1e-2, f"a row is the same alone and in a batch, to {gap:.1g}"))
    begun = time.monotonic()
    try:
        _, direction = Backprop()(objective, noise, Seeds((0,)))
    except GradientError as error:
        return [*findings, Finding(False, str(error))]
    seconds = time.monotonic() - begun
    slope, measured = _slopes(problem, noise, direction)
    error = abs(slope - measured) / max(abs(slope), abs(measured), 1e-30)
    findings.append(
        Finding(error < 0.05, f"gradient {slope:.4g} against finite difference {measured:.4g}, {error:.1%} apart")
    )
    findings.append(Finding(True, f"one step takes {seconds:.2f} s"))
    return findings


def _slopes(problem: Problem, noise: torch.Tensor, direction: torch.Tensor) -> tuple[float, float]:
    """The slope along the direction, from the gradient and from two evaluations."""
    along = direction / direction.norm()
    width = 0.1
    with torch.no_grad():
        up, down = (problem.objective(noise + sign * width * along).value.item() for sign in (1, -1))
    return (direction * along).sum().item(), (up - down) / (2 * width)
