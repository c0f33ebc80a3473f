r"""Schedulers: another one for a pipeline, and Brownian trees as plain draws.

Schedulers that draw their noise with torch need nothing here. Two of diffusers' do not: `DPMSolverSDEScheduler` and
`CosineDPMSolverMultistepScheduler` ask a Brownian tree (of the package torchsde) for the increment of a path between
two noise levels, divided by the root of its length, which the tree computes from hundreds of draws. Increments over
intervals that do not overlap are independent and standard normal, so one draw each has the same distribution: that is
what they get during a run. (`DPMSolverSDEScheduler`'s two calls per step do overlap; there the joint distribution is
another one than the tree's, that of the same solver with noise of its own at each call.) Each such draw can be
optimized. A seed gives another image than with the tree.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, ModelError, choices, describe_error
from noiseward.pipelines.cards import load_schedulers
from noiseward.pipelines.override import override
from noiseward.terminal import silence

__all__ = ["copy_scheduler", "is_stateful", "replace_scheduler", "replace_trees"]

_TREE = "BrownianTreeNoiseSampler"
_NEEDED = ("init_noise_sigma", "order", "scale_model_input", "step")  # what pipelines read from a scheduler


def replace_scheduler(scheduler: Any, name: str, **settings: Any) -> Any:
    """Make another scheduler from the settings of the one a pipeline came with.

    Arguments:
        scheduler: the pipeline's own.
        name: a short name, or a class of diffusers such as `DDIMScheduler`.
        settings: that differ; a flow model is recognized by the scheduler it came with.

    Raises:
        ArgumentError: there is no such scheduler.
        ModelError: it cannot be made from these settings, or drives another kind of model.

    Example:
        >>> from diffusers import PNDMScheduler
        >>> type(replace_scheduler(PNDMScheduler(), "ddim")).__name__
        'DDIMScheduler'
    """
    import diffusers

    known = load_schedulers()
    chosen = dict(known.get(name, {"class": name}))
    kind = chosen.pop("class")
    if not kind.endswith("Scheduler") or not hasattr(diffusers.schedulers, kind):
        raise ArgumentError(f"unknown scheduler '{name}'; {choices(name, known)}, or a class of diffusers")
    new_class = getattr(diffusers.schedulers, kind)
    flows = not hasattr(scheduler, "init_noise_sigma")  # how pipelines of flows and of noise predictors differ
    if flows and "use_flow_sigmas" in inspect.signature(new_class.__init__).parameters:
        shift = scheduler.config.get("shift", 1.0)
        chosen |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    try:
        with silence("diffusers", bars=True):  # it logs the settings it does not know: most
            new = new_class.from_config(scheduler.config, **{**chosen, **settings})
    except Exception as error:  # a package that is missing, a setting it lacks or does not support
        raise ModelError(f"{kind} cannot be made here: {describe_error(error)}") from error
    lacking = [attribute for attribute in _NEEDED if hasattr(scheduler, attribute) and not hasattr(new, attribute)]
    if lacking or (flows and hasattr(new, "init_noise_sigma") and "use_flow_sigmas" not in chosen):
        raise ModelError(
            f"{kind} does not fit a model that came with {type(scheduler).__name__}: "
            f"{f'it has no {lacking[0]}' if lacking else 'the model predicts flows, not noise'}"
        )
    extra = [
        parameter.name
        for parameter in list(inspect.signature(new.step).parameters.values())[3:]
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if extra:
        raise ModelError(f"{kind} also needs {', '.join(extra)} at each step: only a pipeline of its own gives that")
    return new


def is_stateful(part: Any) -> bool:
    """Whether a part of a pipeline keeps something from step to step: a scheduler, or a modular pipeline's guider."""
    from diffusers import SchedulerMixin
    from diffusers.guiders import BaseGuidance

    return isinstance(part, SchedulerMixin | BaseGuidance)


def copy_scheduler(scheduler: Any) -> Any:
    """A copy to run with, with everything that was set on the scheduler, which the run leaves as it is."""
    try:
        own = copy.deepcopy(scheduler)
    except RuntimeError:  # it holds the graph of another run
        return type(scheduler).from_config(scheduler.config)
    if type(vars(own).get("noise_sampler")).__name__ == _TREE:
        own.noise_sampler = None  # an earlier run's
    return own


@contextlib.contextmanager
def replace_trees(scheduler: Any) -> Iterator[None]:
    """Give independent draws to a scheduler that asks a Brownian tree, in the body of a `with`."""
    module = sys.modules[type(scheduler).__module__]
    with override(module, _TREE, _Increments) if _TREE in vars(module) else contextlib.nullcontext():
        yield


class _Increments:
    """Normalized increments of Brownian motion over intervals that do not overlap: a draw each."""

    def __init__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self._like = x

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        return torch.randn(self._like.shape, dtype=self._like.dtype, device=self._like.device)
