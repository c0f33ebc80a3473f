"""Stand-ins for what the strangers import beside their samplers.

Two of them import, at their door, packages for training and evaluation: torchvision (whose wheels bring CUDA along, or
do not load beside a CPU torch) and others. Their samplers use none of it, so that empty modules do.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["stand_ins"]

ABSENT = {"cleanfid", "clip", "dctorch", "jsonmerge", "kornia", "pytorch_fid", "skimage", "torchvision", "wandb"}


class StandIn(types.ModuleType):
    """A module that has every name, each an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the absent packages."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """For the body of a `with`, the absent packages can be imported; afterwards they are absent again."""
    finder = Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]
