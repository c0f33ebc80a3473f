"""Which of a pipeline's models denoise: they are called at each step, counted, and recomputed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from torch.nn import Module

from noiseward.errors import ArgumentError, ModelError, choices

__all__ = ["find_denoisers"]

_NAMES = ("unet", "transformer")  # in nearly all pipelines
_TIMES = {"timestep", "timesteps", "timestep_ratio", "t", "r", "sigma"}  # arguments for how noisy the sample is


def find_denoisers(pipeline: str, modules: Mapping[str, Module], names: str | Sequence[str] | None) -> list[Module]:
    """The models that denoise, the main one first.

    Those called `unet` or `transformer`, and all others that take a timestep: a ControlNet, a second transformer, a
    prior. A pipeline may have others; they are given by name.

    Arguments:
        pipeline: its name, for messages.
        modules: its models by name.
        names: of those that denoise, instead.

    Raises:
        ArgumentError: there is no model of a given name.
        ModelError: none is found.
    """
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in modules:
                raise ArgumentError(f"{pipeline} has no model '{name}' for denoiser=; {choices(str(name), modules)}")
        return [modules[name] for name in names]
    names = [name for name in _NAMES if name in modules]
    names += [name for name, module in modules.items() if name not in names and _takes_time(module)]
    if not names:
        raise ModelError(
            f"{pipeline}: expected a model that is called with a timestep, got {', '.join(sorted(modules)) or 'none'}; "
            "name the one that is called at each step with denoiser='...'"
        )
    return [modules[name] for name in names]


def _takes_time(module: Module) -> bool:
    try:
        return not _TIMES.isdisjoint(inspect.signature(type(module).forward).parameters)
    except (TypeError, ValueError):
        return False
