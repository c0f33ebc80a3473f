"""Whether the model and the reward there are now are those a run was made with.

Some of its weights identify a model. A reward may be any function, so it scores the best samples of the run again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noiseward.errors import RunError
from noiseward.problem import Problem
from noiseward.rewards.journal import find_journals
from noiseward.rewards.reward import score
from noiseward.rewards.shortfall import FAILED
from noiseward.runs.resume_point import ResumePoint
from noiseward.runs.store import RunFolder
from noiseward.samplers.entries import plain_prompts
from noiseward.samplers.fingerprint import compute_fingerprint
from noiseward.samplers.sampler import expand_prompts

__all__ = ["check_model", "check_reward"]

OFF = 0.03  # of a score or its gain, that another device, precision or batch does not explain


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


def check_reward(folder: RunFolder, problem: Problem, stood: ResumePoint) -> None:
    """Raise `RunError` if the reward scores the best samples of a run clearly otherwise than it did.

    Judges, whose answers cost something and vary, are not asked. A reward that varies from call to call passes, and so
    does a row that meets all requirements on one device and barely fails one on another.
    """
    best, objective = stood.place.best, problem.objective
    if best is None or any(find_journals(objective.reward)):
        return
    prompts = plain_prompts(expand_prompts(objective.prompt, len(best.sample)))

    def measure() -> Tensor:
        with torch.no_grad():
            return score(objective.reward, best.sample, prompts)[0].double().cpu().nan_to_num(-torch.inf)

    now, was, initial = measure(), best.reward.double().cpu(), stood.past.initial.reward.double().cpu()
    scale = torch.maximum(was.abs(), (was - initial).abs().nan_to_num(0, 0))
    crossed = now.isfinite() & ((now > FAILED) != (was > FAILED))
    is_other = was.isfinite() & ~crossed & ~((now - was).abs() <= OFF * scale + 1e-6)
    if is_other.any() and all(torch.equal(now, measure()) for _ in range(2)):
        row = int(is_other.int().argmax())
        raise RunError(
            f"{folder.path}: expected reward '{objective.reward.name}' to score the best sample of row {row} "
            f"{was[row]:.4g}, as it did, got {now[row]:.4g}; give the same reward, or begin a new run from this "
            "one's noise, with start="
        )
