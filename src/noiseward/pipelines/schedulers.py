r"""Schedulers: another one for a pipeline, and Brownian trees as plain draws.

Whatever scheduler draws its noise with torch needs nothing here. Two of diffusers' do not: `DPMSolverSDEScheduler` and
`CosineDPMSolverMultistepScheduler` ask a Brownian tree (of the package torchsde) for the increment of a path between
two noise levels, divided by the root of its length, and the tree makes it of hundreds of draws. Increments over
intervals that do not overlap are independent and standard normal, so one draw each has the same distribution: that is
what they get during a run. (`DPMSolverSDEScheduler`'s two calls per step do overlap; there the joint distribution is
another one than the tree's, that of the same solver with noise of its own at each call.) Each such draw can move. What
a seed gives is not the picture that the tree gives for it.
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

from noiseward.errors import ArgumentError, ModelError, choices
from noiseward.pipelines.cards import load_schedulers
from noiseward.pipelines.quiet import hushed

__all__ = ["exchanged", "fresh", "is_stateful", "without_trees"]

_TREE = "BrownianTreeNoiseSampler"
_NEEDED = ("init_noise_sigma", "order", "scale_model_input", "step")  # what pipelines read from a scheduler


def exchanged(scheduler: Any, name: str, **settings: Any) -> Any:
    """Another scheduler, made from the settings of the one a pipeline came with.

    Arguments:
        scheduler: the pipeline's own.
        name: a short name, or a class of diffusers such as `DDIMScheduler`.
        settings: where it shall differ; a model of flows is recognized by the scheduler it came with.

    Raises:
        ArgumentError: there is no such scheduler.
        ModelError: it cannot be made from these settings, or drives another kind of model.

    Example:
        >>> from diffusers import PNDMScheduler
        >>> type(exchanged(PNDMScheduler(), "ddim")).__name__
        'DDIMScheduler'
    """
    import diffusers

    known = load_schedulers()
    chosen = dict(known.get(name, {"class": name}))
    kind = chosen.pop("class")
    if not kind.endswith("Scheduler") or not hasattr(diffusers.schedulers, kind):
        raise ArgumentError(f"unknown scheduler '{name}'; {choices(name, known)}, or a class of diffusers")
    make = getattr(diffusers.schedulers, kind)
    flows = not hasattr(scheduler, "init_noise_sigma")  # how pipelines of flows and of noise predictors differ
    if flows and "use_flow_sigmas" in inspect.signature(make.__init__).parameters:
        shift = scheduler.config.get("shift", 1.0)
        chosen |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    try:
        with hushed():  # it says which settings it does not know: most
            made = make.from_config(scheduler.config, **{**chosen, **settings})
    except Exception as error:  # a package that is missing, a setting it lacks or does not support
        raise ModelError(f"{kind} cannot be made here: {' '.join(str(error).split())}") from error
    lacking = [attribute for attribute in _NEEDED if hasattr(scheduler, attribute) and not hasattr(made, attribute)]
    if lacking or (flows and hasattr(made, "init_noise_sigma") and "use_flow_sigmas" not in chosen):
        raise ModelError(
            f"{kind} does not fit a model that came with {type(scheduler).__name__}: "
            f"{f'it has no {lacking[0]}' if lacking else 'the model predicts flows, not noise'}"
        )
    extra = [
        parameter.name
        for parameter in list(inspect.signature(made.step).parameters.values())[3:]
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if extra:
        raise ModelError(f"{kind} also wants {', '.join(extra)} at each step: only a pipeline of its own gives that")
    return made


def is_stateful(part: Any) -> bool:
    """Whether a part of a pipeline keeps something from step to step: a scheduler, or a modular pipeline's guider."""
    from diffusers import SchedulerMixin
    from diffusers.guiders import BaseGuidance

    return isinstance(part, SchedulerMixin | BaseGuidance)


def fresh(scheduler: Any) -> Any:
    """A copy to run with: it has what was set on the scheduler since it was made, and leaves nothing on it."""
    try:
        made = copy.deepcopy(scheduler)
    except RuntimeError:  # it holds the graph of somebody's run
        return type(scheduler).from_config(scheduler.config)
    if type(vars(made).get("noise_sampler")).__name__ == _TREE:
        made.noise_sampler = None  # an earlier run's
    return made


@contextlib.contextmanager
def without_trees(scheduler: Any) -> Iterator[None]:
    """For the body of a `with`, a scheduler that asks a Brownian tree gets independent draws."""
    module = sys.modules[type(scheduler).__module__]
    tree = vars(module).get(_TREE)
    if tree is None:
        yield
        return
    setattr(module, _TREE, _Increments)
    try:
        yield
    finally:
        setattr(module, _TREE, tree)


class _Increments:
    """Normalized increments of Brownian motion over intervals that do not overlap: a draw each."""

    def __init__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        self._like = x

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        return torch.randn(self._like.shape, dtype=self._like.dtype, device=self._like.device)
