"""Named rewards, and rewards from a user's own file.

`parse` reads what the command line and `align` take: `brightness`, `jpeg:0.5` (a weight), `path/to/file.py:function`,
`path/to/file.py:function:0.5`, `http://127.0.0.1:8000` (a server, see `remote.py`), `http://127.0.0.1:8000:0.5`.
A name or a server may have arguments: its own, as in `hpsv2:version=2.0` or `http://127.0.0.1:8000:timeout=5`, and
these of any:

    weight=0.5       what it is multiplied by; a number right after the name means the same
    name=fit         how tables call it, where two have the same name
    clamp=7          it stops growing there (`Clamped`)
    cutouts=16       the mean over that many crops (`Augmented`)
    unit=true        its gradient has norm 1 in each row (`UnitGradient`)
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RewardError, choices
from noiseward.options.parts import build
from noiseward.rewards.catalog import ENTRIES, Entry, installed, maker
from noiseward.rewards.reward import FunctionReward, Reward, UnitGradient, WeightedSum
from noiseward.rewards.shaping import Augmented, Clamped
from noiseward.user_code import ErrorBoundary

__all__ = ["ENTRIES", "Entry", "named", "parse", "weighted"]

SHAPES = {
    "cutouts": lambda reward, count: Augmented(reward, cutouts=int(count)),
    "clamp": lambda reward, target: Clamped(reward, target=float(target)),
    "unit": lambda reward, wanted: UnitGradient(reward) if {"true": True, "false": False}[wanted.lower()] else reward,
}  # in this order, from the inside out


def named(text: str) -> Reward:
    """The reward of that name, with its own arguments if it has any.

    Raises:
        ArgumentError: there is none, or it takes others; the message names the nearest.

    Example:
        >>> named("darkness").differentiable
        True
    """
    name = text.partition(":")[0].strip()
    known = [*ENTRIES, *installed()] if name not in ENTRIES else [name]
    if name not in known:
        raise ArgumentError(
            f"unknown reward '{name}'; {choices(name, known)}, or path/to/file.py:function, or http://host:port"
        )
    with ErrorBoundary(f"reward '{name}'", "when it was made"):
        made = build(text, {name: maker(name)}, "reward")
    if not isinstance(made, Reward):
        raise RewardError(f"reward '{name}' is a {type(made).__name__}: its package was to make a noiseward.Reward")
    return made


def parse(texts: Sequence[str]) -> Reward:
    """The reward some texts `NAME[:WEIGHT]` or `NAME:KEY=VALUE,...` stand for; several are summed.

    Example:
        >>> parse(["brightness", "jpeg:0.01", "contrast:clamp=0.2,weight=2"]).name
        '1 brightness + 0.01 jpeg + 2 contrast'
    """
    if not texts:
        raise ArgumentError(f"no reward given: choose from {', '.join(ENTRIES)}, or give path/to/file.py:function")
    parts = [weighted(text) for text in texts]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return WeightedSum(dict(parts))


_SERVER = re.compile(r"(https?://(?:\[[^]]*\]|[^/:]*)(?::\d+)?(?:/[^:]*)?)(?::(.+))?")


def weighted(text: str) -> tuple[Reward, float]:
    """The reward one text stands for, and its weight."""
    if text.startswith(("http://", "https://")):
        found = _SERVER.fullmatch(text)
        url, rest = (found[1], found[2] or "") if found else (text, "")
        at = {"server": _server(url)}
        return _with_arguments(text, rest, lambda own: build(f"server:{own}" if own else "server", at, "reward"))
    path, mark, rest = text.rpartition(".py:")
    if mark:
        function, _, weight = rest.partition(":")
        return _from_file(Path(path + ".py"), function), _weight(weight, text)
    name, _, rest = text.partition(":")
    return _with_arguments(text, rest, lambda own: named(f"{name}:{own}" if own else name))


def _with_arguments(text: str, rest: str, make: Callable[[str], Reward]) -> tuple[Reward, float]:
    """A reward and its weight from what follows its name: its own arguments go to `make`."""
    own: list[str] = []
    given: dict[str, str] = {}
    for number, piece in enumerate(rest.split(",") if rest else ()):
        key, equals, value = (part.strip() for part in piece.partition("="))
        key, value = (key, value) if equals or number else ("weight", key)
        if key not in (*SHAPES, "weight", "name"):
            own.append(piece)
        elif key in given:
            raise ArgumentError(f"reward '{text}' gives '{key}' twice: give it once")
        else:
            given[key] = value
    weight = _weight(given.get("weight", ""), text)
    reward: Any = make(",".join(own))
    reward.name = given.get("name") or reward.name
    for key, shape in SHAPES.items():
        if key in given:
            try:
                reward = shape(reward, given[key])
            except (ValueError, KeyError) as error:
                if isinstance(error, ArgumentError):
                    raise
                wanted = "true or false" if key == "unit" else "a number"
                raise ArgumentError(f"'{key}={given[key]}' in reward '{text}' given: {wanted} wanted") from None
    return reward, weight


def _server(url: str) -> Callable[..., Reward]:
    """What makes a remote reward from arguments that may be written down; a token may not."""
    from noiseward.rewards.remote import RemoteReward

    def make(
        *, timeout: float = 60.0, retries: int = 3, backoff: float = 0.5, batch: int = 8, workers: int = 4
    ) -> Reward:
        return RemoteReward(url, timeout=timeout, retries=retries, backoff=backoff, batch=batch, workers=workers)

    return make


def _weight(weight: str, text: str) -> float:
    try:
        number = float(weight) if weight else 1.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"'{weight}' in reward '{text}' is no weight: NAME:WEIGHT wants a number, as in 'jpeg:0.5'")
    return number


def _from_file(path: Path, name: str) -> Reward:
    """Run a user's file and take a reward, or a function to make one of, from it."""
    if not os.path.isfile(path):
        raise ArgumentError(f"{path} is no file: a reward of your own is path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    with ErrorBoundary(str(path), "when it was run"):
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ArgumentError(
                f"{path} has no '{name}'; {choices(name, functions) if functions else 'it defines no function'}"
            )
        found = getattr(module, name)
        return found if isinstance(found, Reward) else FunctionReward(found, name=name)
