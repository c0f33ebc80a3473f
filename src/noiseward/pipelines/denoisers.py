"""Which of a pipeline's models denoise: they are called at each step, counted, and recomputed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch.nn import Module

from noiseward.errors import ArgumentError, ModelError, choices

__all__ = ["denoisers"]

_NAMES = ("unet", "transformer")  # how nearly all pipelines call theirs
_TIMES = (
    "timestep",
    "timesteps",
    "timestep_ratio",
    "t",
    "r",
    "sigma",
)  # arguments by which a model is told how noisy it is


def denoisers(pipeline: str, modules: Mapping[str, Module], named: str | Sequence[str] | None) -> list[Module]:
    """The models that denoise, the main one first.

    Those called `unet` or `transformer`, and all others that are told the time: a ControlNet, a second transformer, a
    prior. A pipeline may have others; they are named.

    Arguments:
        pipeline: what it is called, for messages.
        modules: its models by name.
        named: names of those that denoise, instead.

    Raises:
        ArgumentError: there is no model of a given name.
        ModelError: none is found.
    """
    if named is not None:
        names = [named] if isinstance(named, str) else list(named)
        for name in names:
            if name not in modules:
                raise ArgumentError(f"{pipeline} has no model '{name}' for denoiser=; {choices(str(name), modules)}")
        return [modules[name] for name in names]
    names = [name for name in _NAMES if name in modules]
    names += [name for name, module in modules.items() if name not in names and _is_told_the_time(module)]
    if not names:
        raise ModelError(
            f"{pipeline}: expected a model that is called with a timestep, got {', '.join(sorted(modules)) or 'none'}; "
            "name the one that is called at each step with denoiser='...'"
        )
    return [modules[name] for name in names]


def _is_told_the_time(module: Module) -> bool:
    try:
        parameters = inspect.signature(type(module).forward).parameters
    except (TypeError, ValueError):
        return False
    return any(name in _TIMES for name in parameters)
