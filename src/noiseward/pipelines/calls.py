r"""A pipeline's call, and what it takes.

What a call takes is what its signature says, or, where that passes everything on, what those of its base classes say; a
modular pipeline's inputs are its blocks'. Where a pipeline's call turns gradients off, in a decorator of its own, in
that of a base class, of a pipeline it holds or of a block, they are left on (`differentiable.py`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from noiseward.errors import ModelError

__all__ = ["default", "held", "parameters", "produced", "without_bars"]

_RESULTS = ("images", "image", "videos", "video", "audios", "audio", "sound")  # how modular pipelines call a sample


def parameters(pipe: Any) -> set[str]:
    """Names of the arguments that a pipeline's call takes.

    Raises:
        ModelError: it is no pipeline.
    """
    return set(_signature(pipe))


def default(pipe: Any, name: str) -> Any:
    """What an argument of a pipeline's call is if it is not given."""
    return _signature(pipe).get(name)


def produced(pipe: Any) -> dict[str, Any]:
    """What makes a modular pipeline's call return its sample and nothing else; nothing for another pipeline."""
    if not _is_modular(pipe):
        return {}
    names = [output.name for output in pipe.blocks.outputs]
    found = next((name for name in _RESULTS if name in names), None)
    if found is None:
        raise ModelError(
            f"{type(pipe).__name__}: expected blocks that produce one of {', '.join(_RESULTS)}, got "
            f"{', '.join(map(str, names)) or 'nothing'}; add the block that decodes"
        )
    return {"output": found}


def held(pipe: Any) -> list[Any]:
    """A pipeline and the pipelines that its call runs, which it holds."""
    from diffusers import DiffusionPipeline

    return [pipe, *(part for part in vars(pipe).values() if isinstance(part, DiffusionPipeline))]


@contextlib.contextmanager
def without_bars(pipe: Any) -> Iterator[None]:
    """For the body of a `with`, a pipeline shows no progress bars."""
    name = "_progress_bar_config"
    owners = [vars(block) for block in _blocks(pipe._blocks)] if _is_modular(pipe) else [vars(pipe)]
    before = [owner.get(name) for owner in owners]
    for owner, config in zip(owners, before, strict=True):
        owner[name] = {**(config or {}), "disable": True}
    try:
        yield
    finally:
        for owner, config in zip(owners, before, strict=True):
            if config is None:
                del owner[name]
            else:
                owner[name] = config


def _blocks(block: Any) -> Iterator[Any]:
    yield block
    for part in (getattr(block, "sub_blocks", None) or {}).values():
        yield from _blocks(part)


def _signature(pipe: Any) -> dict[str, Any]:
    """Arguments of a pipeline's call and their defaults."""
    from diffusers import DiffusionPipeline

    if _is_modular(pipe):
        return {given.name: given.default for given in pipe.blocks.inputs if given.name is not None}
    if not isinstance(pipe, DiffusionPipeline):
        raise ModelError(
            f"{type(pipe).__name__} is no diffusers pipeline: wrap other samplers with FunctionSampler(fn)"
        )
    found: dict[str, Any] = {}
    for kind in type(pipe).__mro__:
        if "__call__" not in vars(kind):
            continue
        own = list(inspect.signature(vars(kind)["__call__"]).parameters.values())[1:]
        found = {one.name: one.default for one in own if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)} | found
        if not any(one.kind is one.VAR_KEYWORD for one in own):
            break
    return found


def _is_modular(pipe: Any) -> bool:
    from diffusers import ModularPipeline

    return isinstance(pipe, ModularPipeline)
