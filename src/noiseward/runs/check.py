"""What can be said of a run's options before anything is loaded, even torch: which names and paths are none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError
from noiseward.options.run import RunSpec
from noiseward.options.start import find_start, split_start
from noiseward.options.task import IMAGES
from noiseward.pipelines.cards import ignores_eta
from noiseward.user_code import check_file

__all__ = ["check_inputs", "check_names", "list_paths"]


def check_names(spec: RunSpec) -> None:
    """Raise `ArgumentError` if a spec names a reward, method or file that there is not, or an `eta` in vain."""
    from noiseward.methods import read_method
    from noiseward.methods.plugins import split_file
    from noiseward.rewards.names import check_requirement, check_reward

    for text in (*spec.reward, *(spec.watch or ())):
        check_reward(text)
    for text in spec.require:
        check_requirement(text)
    if in_file := split_file(spec.method or ""):
        check_file(Path(in_file[0].rpartition(":")[0]), "a method of your own")
    elif spec.method is not None:
        read_method(spec.method)
    if found := re.fullmatch(r"(.+?\.py):[^:]+", spec.model):
        check_file(Path(found[1]), "a model of your own")
    if spec.eta and spec.scheduler is not None and ignores_eta(spec.scheduler):
        raise ArgumentError(
            f"eta is for the schedulers ddim and tcd, got {spec.scheduler}, which ignores it; leave it out"
        )


def check_inputs(spec: RunSpec) -> None:
    """Raise `ArgumentError` if an image or a start that a spec names is not there."""
    for name in IMAGES:
        for path in _list_paths(getattr(spec, name)):
            if not os.path.exists(os.path.expanduser(path)):
                flag = RunSpec.flag(name)
                raise ArgumentError(f"{flag} must be the path of an image, got '{path}', which is not there; check it")
    if spec.start is not None:
        find_start(spec.start)


def list_paths(spec: RunSpec) -> list[str]:
    """The files that a spec names as images or as a start.

    Example:
        >>> list_paths(RunSpec(reward="brightness", image=["a.png"], start="runs/x@3", call={"image_2": "b.png"}))
        ['a.png', 'b.png', 'runs/x/frames/00003.safetensors']
    """
    images = [getattr(spec, name) for name in IMAGES]
    more = [value for name, value in spec.call.items() if "image" in name or os.path.exists(str(value))]
    start = [] if spec.start is None else [split_start(spec.start)[0].as_posix()]
    return [*_list_paths(images), *_list_paths(more), *start]


def _list_paths(value: Any) -> Iterator[str]:
    """The paths in the value of an option for images."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _list_paths(part)
