"""Whether the model there is now is the one a run was made with."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from noiseward.api import Problem
from noiseward.errors import RunError
from noiseward.runs.store import RunFolder
from noiseward.samplers.sampler import Sampler

__all__ = ["fingerprint", "same_model"]


def fingerprint(sampler: Sampler) -> str:
    """A short digest of the draws of a sampler and a few numbers of every weight of its model."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr([(draw.name, draw.shape, draw.role, draw.live) for draw in sampler.layout]).encode())
    modules = [module for _, module in sorted(sampler.modules.items())]
    parameters = [parameter.detach().flatten()[:8] for module in modules for parameter in module.parameters()]
    if parameters:
        digest.update(torch.cat([part.float().cpu() for part in parameters]).numpy().tobytes())
    return digest.hexdigest()


def same_model(folder: RunFolder, problem: Problem, noise: Tensor) -> None:
    """Raise `RunError` unless a problem is that of a run: noise of the same layout, a model of the same weights."""
    try:
        problem.objective.sampler.layout.check(noise)
    except ValueError as error:
        raise RunError(f"{folder.path} was run with another model or other arguments: {error}") from None
    known = folder.read("env.json").get("fingerprint")
    if known and known != fingerprint(problem.objective.sampler):
        raise RunError(
            f"{folder.path} was run with other weights than '{folder.spec().model}' has now: restore them, or run again"
        )
