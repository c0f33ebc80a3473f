"""Open a model as a sampler, whether it is a sampler, a pipeline, or a name."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from noiseward.errors import ArgumentError, ModelError, NoisewardWarning, choices
from noiseward.options.run import CALL, Settings
from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.pipelines.arguments import open_images
from noiseward.pipelines.calls import list_parameters
from noiseward.pipelines.cards import card_of
from noiseward.pipelines.load import load_pipeline
from noiseward.pipelines.tasks import check_request, check_strength, convert_pipeline
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.sampler import Sampler
from noiseward.user_code import ErrorBoundary, load_name

__all__ = ["open_sampler"]

_OURS = inspect.signature(DiffusersSampler.__init__).parameters.keys() - {"call"}

_OPTIONS = [name for name in Settings.model_fields if name not in (*CALL, "call")]  # of a run


def _near(name: str) -> str | None:
    """The option of a run that someone who gives a pipeline an argument of this name may mean."""
    return next(iter(difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.75)), None)


def open_sampler(
    model: Any,
    *,
    memory: str | None = None,
    decoder: str | None = None,
    call: Mapping[str, Any] = MappingProxyType({}),
    loading: Mapping[str, Any] = MappingProxyType({}),
    conversion: Mapping[str, Any] = MappingProxyType({}),
) -> Sampler:
    """Open a model as a sampler.

    Arguments:
        model: a `Sampler`, which is passed through, a diffusers pipeline, `path/to/file.py:name` (a sampler or a
            pipeline, or a function that makes one; the file is run), or what `load_pipeline` takes.
        memory: the mode that gradients are taken in; default: the model card's, else `balanced`.
        decoder: another one for gradients alone, as `DiffusersSampler` takes it.
        call: arguments of the pipeline's own call. Default: those of the model's card, and 1 for `eta`.
        loading: arguments of `load_pipeline`.
        conversion: what the pipeline is used for, as `convert_pipeline` takes it.

    Raises:
        ModelError: a model that cannot be loaded or driven.
        ArgumentError: an argument that is unknown, or of no use to such a model.
    """
    if isinstance(model, Sampler):
        if given := [*call, *loading, *conversion]:
            hint = f"did you mean {near!r}?" if (near := _near(given[0])) else "set it there"
            raise ArgumentError(f"expected a pipeline or a name with {', '.join(given)}, got a sampler; {hint}")
        if memory:
            message = f"memory= is for pipelines, got a {type(model).__name__}; set it where the sampler is made"
            hint = ", with recompute=True and denoiser= to keep less" if isinstance(model, FunctionSampler) else ""
            raise ArgumentError(f"{message}{hint}")
        if decoder:
            raise ArgumentError(f"decoder= is for pipelines, got a {type(model).__name__}; set it where it is made")
        return model
    if isinstance(model, str) and (in_file := re.fullmatch(r"(.+?\.py):([^:]+)", model)):
        how = {"memory": memory, "decoder": decoder, "call": call, "conversion": conversion}
        return _open_file(Path(in_file[1]), in_file[2], model, loading=loading, **how)
    by_name, card = isinstance(model, str | Path), card_of(model)
    if loading and not by_name:
        raise ArgumentError(f"expected a model's name with {', '.join(loading)}, got a pipeline; set it up yourself")
    call = {name: open_images(name, value) for name, value in call.items()}
    check_request(conversion, call)  # before a model is loaded, which takes long
    pipe = load_pipeline(model, **loading) if by_name else model
    pipe, call = convert_pipeline(pipe, conversion, call, own=by_name)
    known = list_parameters(pipe)
    for name in call.keys() & _OURS:
        raise ArgumentError(f"{type(pipe).__name__} has no argument '{name}'; {choices(name, sorted(known))}")
    for name in call.keys() - known:
        if near := _near(name):
            raise ArgumentError(f"{type(pipe).__name__} has no argument '{name}'; did you mean {near!r}?")
    defaults = {"eta": 1.0, **(card.call if card else {})}
    chosen = {name: value for name, value in defaults.items() if name in known} | dict(call)
    check_strength(pipe, chosen)
    if call.get("eta") and not _takes_eta(pipe):
        message = f"eta has no effect with {type(pipe.scheduler).__name__}; leave it out, or take the scheduler ddim"
        warnings.warn(message, NoisewardWarning, stacklevel=2)
    memory = memory or (card.memory if card else "balanced")
    return DiffusersSampler(pipe, memory=memory, decoder=decoder, **chosen)


def _takes_eta(pipe: Any) -> bool:
    """Whether a pipeline hands `eta` to its scheduler, which diffusers' pipelines do where that takes it."""
    hands = hasattr(pipe, "prepare_extra_step_kwargs") and hasattr(pipe, "scheduler")
    return not hands or "eta" in inspect.signature(pipe.scheduler.step).parameters


def _open_file(path: Path, name: str, text: str, *, loading: Mapping[str, Any], **how: Any) -> Sampler:
    """Open what a user's own file names: a sampler or a pipeline, or what a function makes, which takes what it knows.

    Options that load a model are passed to the function by their names, if it has them.
    """
    found = load_name(path, name, "a model of your own", kind=ModelError)
    if callable(found) and not isinstance(found, Sampler) and not hasattr(found, "components"):
        known = inspect.signature(found).parameters
        if wrong := [one for one in loading if one not in known]:
            raise ArgumentError(f"model '{text}' takes no {', '.join(wrong)}; give its function that argument")
        with ErrorBoundary(f"model '{text}'", "when it was made", kind=ModelError):
            found = found(**loading)
    elif loading:
        raise ArgumentError(f"model '{text}' takes no {', '.join(loading)}; name a function with that argument")
    if not isinstance(found, Sampler) and not hasattr(found, "components"):
        kind = type(found).__name__
        raise ArgumentError(f"model '{text}' must be a Sampler or a pipeline, or a function that makes one, got {kind}")
    return open_sampler(found, **how)
