r"""A pipeline's call, and the arguments it takes.

The arguments are those of its signature, or, where that passes everything on, those of its base classes; a modular
pipeline's inputs are its blocks'. Where a pipeline's call turns gradients off, in a decorator of its own, in that of a
base class, of a pipeline it holds or of a block, they are left on (`differentiable.py`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from noiseward.errors import ModelError, describe_error
from noiseward.pipelines.override import override
from noiseward.samplers.location import error_location

__all__ = ["describe_failure", "get_default", "hide_bars", "list_parameters", "list_pipelines", "select_output"]

_RESULTS = ("images", "image", "videos", "video", "audios", "audio", "sound")  # names of a sample in modular pipelines


def list_parameters(pipe: Any) -> set[str]:
    """Names of the arguments that a pipeline's call takes.

    Raises:
        ModelError: not a pipeline.
    """
    return set(_signature(pipe))


def get_default(pipe: Any, name: str) -> Any:
    """The default of an argument of a pipeline's call."""
    return _signature(pipe).get(name)


def select_output(pipe: Any) -> dict[str, Any]:
    """Arguments with which a modular pipeline's call returns its sample alone; none for another pipeline."""
    if not _is_modular(pipe):
        return {}
    names = [output.name for output in pipe.blocks.outputs]
    output = next((name for name in _RESULTS if name in names), None)
    if output is None:
        raise ModelError(
            f"{type(pipe).__name__}: expected blocks that produce one of {', '.join(_RESULTS)}, got "
            f"{', '.join(map(str, names)) or 'nothing'}; add the block that decodes"
        )
    return {"output": output}


def describe_failure(pipe: Any, error: Exception) -> str:
    """What became of a pipeline's call, in one line: refused by the pipeline, or broken off somewhere in its code."""
    name = type(pipe).__name__
    if isinstance(error, ValueError | TypeError):  # how pipelines refuse arguments
        return f"{name} refuses this call: {describe_error(error, 300)}"
    said = f"{name} fails with {type(error).__name__}: {describe_error(error, 200)}"
    place = error_location(error)
    return f"{said} (at {place}; see whether pipe(...) alone runs)" if place else said


def list_pipelines(pipe: Any) -> list[Any]:
    """A pipeline and the pipelines it holds, which its call runs."""
    from diffusers import DiffusionPipeline

    return [pipe, *(part for part in vars(pipe).values() if isinstance(part, DiffusionPipeline))]


@contextlib.contextmanager
def hide_bars(pipe: Any) -> Iterator[None]:
    """Let a pipeline show no progress bars in the body of a `with`."""
    name = "_progress_bar_config"
    with contextlib.ExitStack() as stack:
        for owner in _walk(pipe._blocks) if _is_modular(pipe) else [pipe]:
            config = vars(owner).get(name) or {}
            stack.enter_context(override(owner, name, {**config, "disable": True}))
        yield


def _walk(block: Any) -> Iterator[Any]:
    yield block
    for part in (getattr(block, "sub_blocks", None) or {}).values():
        yield from _walk(part)


def _signature(pipe: Any) -> dict[str, Any]:
    """Arguments of a pipeline's call and their defaults."""
    from diffusers import DiffusionPipeline

    if _is_modular(pipe):
        return {each.name: each.default for each in pipe.blocks.inputs if each.name is not None}
    if not isinstance(pipe, DiffusionPipeline):
        raise ModelError(
            f"{type(pipe).__name__} is no diffusers pipeline: wrap other samplers with FunctionSampler(fn)"
        )
    defaults: dict[str, Any] = {}
    for kind in type(pipe).__mro__:
        if "__call__" not in vars(kind):
            continue
        own = list(inspect.signature(vars(kind)["__call__"]).parameters.values())[1:]
        named = {each.name: each.default for each in own if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        defaults = named | defaults
        if not any(each.kind is each.VAR_KEYWORD for each in own):
            break
    return defaults


def _is_modular(pipe: Any) -> bool:
    from diffusers import ModularPipeline

    return isinstance(pipe, ModularPipeline)
