"""Short names of models and schedulers: what `cards.toml` says, and nothing that needs a network."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["Card", "cards", "scheduler_names"]


@dataclasses.dataclass(frozen=True)
class Card:
    """Where a model is found, and how its makers advise to call it.

    Arguments:
        id: on the hub, `owner/name`.
        says: what it is, in a few words.
        revision: branch, tag or commit.
        dtype: precision of its weights, by name; None: the device's.
        scheduler: a name `--scheduler` takes; None: the model's own.
        call: arguments of its call.
    """

    id: str
    says: str
    revision: str = "main"
    dtype: str | None = None
    scheduler: str | None = None
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@functools.cache
def cards() -> Mapping[str, Card]:
    """The models that have a short name.

    Example:
        >>> cards()["sdxl-turbo"].call["num_inference_steps"]
        1
    """
    return MappingProxyType({name: Card(**entry) for name, entry in _read()["models"].items()})


def scheduler_names() -> Mapping[str, dict[str, Any]]:
    """Short names of schedulers: each a diffusers class under `class`, and settings.

    Example:
        >>> scheduler_names()["euler-a"]["class"]
        'EulerAncestralDiscreteScheduler'
    """
    return _read()["schedulers"]


@functools.cache
def _read() -> dict[str, Any]:
    file = importlib.resources.files("noiseward.pipelines") / "cards.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
