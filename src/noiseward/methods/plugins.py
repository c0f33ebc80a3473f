"""Methods of users and of other packages.

`path/to/mine.py:Walk` names one in a file, which is run; its arguments may follow, as in `mine.py:Walk:cosine=0.9`. It
is

* a `Recipe`, whose parameters are its arguments;
* an `Optimizer`, or a function of the reward that makes one, with no arguments.

Packages add theirs through the entry point group `noiseward.methods`: a name, and one of these.
"""

from __future__ import annotations

import functools
import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.methods.recipe import METHODS, Recipe
from noiseward.user_code import ErrorBoundary, load_name

__all__ = ["GROUP", "find_plugin", "list_installed_methods", "split_file"]

GROUP = "noiseward.methods"
_FILE = re.compile(r"(.+?\.py):([^:,]+)(.*)", re.DOTALL)


def split_file(text: str) -> tuple[str, str] | None:
    """The `path.py:name` that a text begins with, and what follows; None where it begins with no file.

    Example:
        >>> split_file("mine.py:Walk:cosine=0.9"), split_file("dno:lr=0.01")
        (('mine.py:Walk', ':cosine=0.9'), None)
    """
    match = _FILE.fullmatch(text.strip())
    return (f"{match[1]}:{match[2].strip()}", match[3]) if match else None


def list_installed_methods() -> dict[str, EntryPoint]:
    """Methods of other installed packages by name; a name of ours stays ours."""
    return {each.name: each for each in entry_points(group=GROUP) if each.name not in METHODS}


def find_plugin(name: str) -> type[Recipe] | None:
    """The method of a name that is none of ours: in a file, or of another package.

    Raises:
        ArgumentError: there is no such file, or nothing of that name is in it.
        NoisewardError: it cannot be imported, or is no method.
    """
    if split_file(name):
        path, _, own = name.rpartition(":")
        return _load_from_file(str(Path(path).absolute()), own, name)
    point = list_installed_methods().get(name)
    if point is None:
        return None
    package = point.dist.name if point.dist else point.value
    with ErrorBoundary(f"method '{name}' of {package}", "on import", kind=NoisewardError):
        found = point.load()
    return _as_recipe(found, name)


@functools.cache
def _load_from_file(path: str, own: str, name: str) -> type[Recipe]:
    """A file is run once per process."""
    before = dict(METHODS)
    try:
        return _as_recipe(load_name(Path(path), own, "a method of your own", kind=NoisewardError), name)
    finally:
        METHODS.clear()  # recipes of files go by their files: a name would be gone when the run is resumed
        METHODS.update(before)


def _as_recipe(found: Any, name: str) -> type[Recipe]:
    """A method as a recipe that goes by a name."""
    from noiseward.loop.optimizer import Optimizer

    if isinstance(found, type) and issubclass(found, Recipe):
        if inspect.isabstract(found):
            raise ArgumentError(f"method '{name}' has no optimizer(self, reward); a recipe builds an optimizer")
        found.name = name
        return found
    if not (isinstance(found, Optimizer) or callable(found)):
        kind = type(found).__name__
        raise ArgumentError(f"method '{name}' must be a Recipe, an Optimizer, or a function that makes one, got {kind}")

    class Plain(Recipe):
        def optimizer(self, reward: Any) -> Any:
            made = found
            with ErrorBoundary(f"method '{name}'", "when it was made", kind=NoisewardError):
                if isinstance(found, type):
                    made = found()
                elif not isinstance(found, Optimizer):
                    made = found(reward)
            if not isinstance(made, Optimizer):
                raise ArgumentError(f"method '{name}' must make an Optimizer, got {type(made).__name__}")
            return made

    Plain.name, Plain.__doc__ = name, inspect.getdoc(found)
    return Plain
