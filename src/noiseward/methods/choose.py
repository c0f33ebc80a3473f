"""Choosing a method: by its text, or the default for a reward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.methods.plugins import find_plugin, list_installed_methods, split_file
from noiseward.methods.recipe import METHODS, PARTS, Method, Recipe
from noiseward.options.parts import split_arguments
from noiseward.options.replaced import REPLACED_METHODS

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.rewards.reward import Reward

__all__ = ["DEFAULT_METHODS", "choose_method", "default_method", "read_method"]


def read_method(text: str) -> Recipe:
    """The method that a text names.

    Raises:
        ArgumentError: no such method, argument or value.

    Example:
        >>> read_method("dno:0.05,guard=concentration:target=0.1,block=8").text  # `target` is what it was called
        'dno:lr=0.05,guard=concentration:min_probability=0.1,block=8'
        >>> read_method("dno:paper,best_of=4").text
        'dno:lr=0.01,best_of=4,guard=concentration:weight=1.0'
    """
    in_file = split_file(text)
    name = in_file[0] if in_file else text.partition(":")[0].strip()
    kind = METHODS.get(name) or find_plugin(name)
    if kind is None:
        known = [*METHODS, *list_installed_methods()]
        hint = f"use '{REPLACED_METHODS[name]}'" if name in REPLACED_METHODS else choices(name, known)
        raise ArgumentError(f"unknown method '{name}'; {hint}, or path/to/file.py:Class")
    text = text if in_file is None else f"file{in_file[1]}"
    given: dict[str, str] = {}
    part = None
    for key, value in _expand(kind, split_arguments(text, first=next(iter(kind.own()), None), what="method")):
        if key in kind.model_fields:
            if key in given:
                raise ArgumentError(f"method '{text}' has '{key}' twice; give it once")
            given[key], part = value, key if key in PARTS else None
        elif part is not None:
            given[part] += f"{',' if ':' in given[part] else ':'}{key}={value}"
        else:
            raise ArgumentError(f"method '{name}' has no argument '{key}'; {choices(key, kind.model_fields)}")
    unset = {key for key, field in kind.model_fields.items() if field.default is None and key != "guard"}
    values = {key: None if value == "none" and key in unset else value for key, value in given.items()}
    return kind.read(values, spell=lambda key: f"method '{name}': {key}")


def _expand(kind: type[Recipe], arguments: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Arguments with a preset in the first place written out."""
    for number, (key, value) in enumerate(arguments):
        if number == 0 and value in kind.presets:
            yield from kind.presets[value].items()
        elif value in kind.model_fields:
            raise ArgumentError(f"method '{kind.name}': {value} needs a value; give {kind.name}:{value}=...")
        else:
            yield key, value


def default_method(differentiable: bool, *, earlier: bool = False, started: bool = False) -> str:
    """The method where none is asked for; `earlier`, that of earlier formats, by whether the reward has a gradient;
    `started`, that of runs that start from given noise."""
    if not earlier:
        return "refine" if started else "auto"
    return f"{'dno' if differentiable else 'trust-region'}:guard=none"


def choose_method(
    method: str | Recipe | Method | Optimizer | None,
    reward: Reward,
    *,
    earlier: bool = False,
    started: bool = False,
) -> Method:
    """Choose what runs: a method by its text, a recipe, a method, an optimizer alone, or the default for a reward.

    The default is `auto`, which explores and then refines, by what model and reward offer (`docs/guards.md`). From
    given noise it is `refine`, which stays there.
    """
    from noiseward.loop.optimizer import Optimizer

    if method is None or isinstance(method, str):
        chosen = default_method(reward.differentiable, earlier=earlier, started=started) if method is None else method
        method = read_method(chosen)
    if isinstance(method, Recipe):
        return method.build(reward)
    if isinstance(method, Method):
        return method
    if isinstance(method, Optimizer):
        return Method(method)
    raise ArgumentError(f"method must be a name, a Recipe, a Method or an Optimizer, got {shorten(repr(method), 60)}")


DEFAULT_METHODS = (
    "auto",
    "best-of-n",
    "zero-order",
    "trust-region",
    "walk",
    "evolution",
    "fk",
    "dps",
    "lgd",
    "ntrk",
    "pcnl",
    "reno",
    "dno",
    "dno:best_of=16",
    "dno:project=start",
    "dno:guard=concentration:min_probability=0.1",
    "dno:coarse=10",
    "dno:estimator=hybrid2",
)
"""What `compare` compares unless asked otherwise."""
