"""Named rewards, and rewards from a user's own file.

`parse` reads what the command line and `align` take: `brightness`, `jpeg:0.5` (a weight), `path/to/file.py:function`,
`path/to/file.py:function:0.5`, `http://127.0.0.1:8000` (a server, see `remote.py`), `http://127.0.0.1:8000:0.5`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from noiseward.errors import ArgumentError, RewardError, choices
from noiseward.reward import FunctionReward, Reward, WeightedSum

__all__ = ["ENTRIES", "Entry", "named", "parse"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named reward, before anything of it is imported.

    Arguments:
        where: `module:name` of something that makes the reward when called.
        measures: one sentence on what it measures.
        range: the values it takes.
        differentiable: whether it has a gradient.
    """

    where: str
    measures: str
    range: str
    differentiable: bool = True


ENTRIES = {
    "brightness": Entry("noiseward.rewards.pixels:brightness", "mean of all pixels", "0 to 1"),
    "darkness": Entry("noiseward.rewards.pixels:darkness", "1 - brightness", "0 to 1"),
    "contrast": Entry("noiseward.rewards.pixels:contrast", "standard deviation of the luminance", "0 to 0.5"),
    "jpeg": Entry("noiseward.rewards.pixels:jpeg", "negative size in kB as a quality-95 JPEG", "below 0", False),
}


def named(name: str) -> Reward:
    """The reward of that name.

    Raises:
        ArgumentError: there is none; the message names the nearest.

    Example:
        >>> named("darkness").differentiable
        True
    """
    if name not in ENTRIES:
        raise ArgumentError(
            f"no reward is called '{name}': {choices(name, ENTRIES)} (or give path/to/file.py:function, or http://host:port)"
        )
    module, _, attribute = ENTRIES[name].where.partition(":")
    make: Callable[[], Reward] = getattr(importlib.import_module(module), attribute)
    return make()


def parse(texts: Sequence[str]) -> Reward:
    """The reward some texts `NAME[:WEIGHT]` stand for; several are summed.

    Example:
        >>> parse(["brightness", "jpeg:0.01"]).name
        '1 brightness + 0.01 jpeg'
    """
    if not texts:
        raise ArgumentError(f"no reward given: choose from {', '.join(ENTRIES)}, or give path/to/file.py:function")
    parts = [_parse(text) for text in texts]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return WeightedSum(dict(parts))


_SERVER = re.compile(r"(https?://(?:\[[^]]*\]|[^/:]*)(?::\d+)?(?:/[^:]*)?)(?::(.+))?")


def _parse(text: str) -> tuple[Reward, float]:
    if text.startswith(("http://", "https://")):
        from noiseward.rewards.remote import RemoteReward

        found = _SERVER.fullmatch(text)
        return RemoteReward(found[1] if found else text), _weight(found[2] if found and found[2] else "", text)
    path, mark, rest = text.rpartition(".py:")
    if mark:
        function, _, weight = rest.partition(":")
        return _from_file(Path(path + ".py"), function), _weight(weight, text)
    name, _, weight = text.partition(":")
    return named(name), _weight(weight, text)


def _weight(weight: str, text: str) -> float:
    try:
        return float(weight) if weight else 1.0
    except ValueError:
        raise ArgumentError(
            f"'{weight}' in reward '{text}' is no weight: NAME:WEIGHT wants a number, as in 'jpeg:0.5'"
        ) from None


def _from_file(path: Path, name: str) -> Reward:
    """Run a user's file and take a reward, or a function to make one of, from it."""
    if not path.is_file():
        raise ArgumentError(f"{path} is no file: a reward of your own is path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"{path} raised {type(error).__name__} when it was run: {error}") from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ArgumentError(
            f"{path} has no '{name}': {choices(name, functions or ['nothing, it defines no function'])}"
        )
    found = getattr(module, name)
    return found if isinstance(found, Reward) else FunctionReward(found, name=name)
