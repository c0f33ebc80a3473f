"""Rewards from text: by name, from a user's own file, or from a server.

`parse_rewards` reads what the command line and `align` take: `brightness`, `jpeg:0.5` (a weight),
`path/to/file.py:function`, `path/to/file.py:function:0.5`, `http://127.0.0.1:8000` (a server, see `remote.py`),
`http://127.0.0.1:8000:0.5`. A name or a server may have arguments: its own, as in `hpsv2:version=2.0` or
`http://127.0.0.1:8000:timeout=5`, and these of any:

    weight=0.5       its factor; a number right after the name means the same
    name=fit         its name in tables, where two have the same
    device=cpu       it is computed there (`Placed`)
    dtype=bfloat16   its model's weights are in that precision (`Placed`)
    recompute=true   its model's activations are recomputed block by block (`Placed`)
    clamp=7          it stops growing there (`Clamped`)
    cutouts=16       the mean over that many crops (`Augmented`)
    unit=true        its gradient has norm 1 in each row (`UnitGradient`)
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError, RewardError, choices
from noiseward.options.parts import build_part, split_commas
from noiseward.rewards.catalog import ENTRIES, find_maker
from noiseward.rewards.names import read_name
from noiseward.rewards.placement import Placed
from noiseward.rewards.requirements import Constrained, Requirement
from noiseward.rewards.reward import FunctionReward, Reward, UnitGradient, WeightedSum
from noiseward.rewards.shaping import Augmented, Clamped
from noiseward.rewards.shortfall import parse_requirement
from noiseward.user_code import ErrorBoundary, check_file

__all__ = ["make_reward", "parse_requirements", "parse_rewards", "parse_weighted"]

_TRUTH = {"true": True, "false": False}
SHAPES = {
    "device": lambda reward, device: Placed(reward, device=device),
    "dtype": lambda reward, dtype: Placed(reward, dtype=dtype),
    "recompute": lambda reward, is_on: Placed(reward, recompute=_TRUTH[is_on.lower()]),
    "cutouts": lambda reward, count: Augmented(reward, cutouts=int(count)),
    "clamp": lambda reward, target: Clamped(reward, target=float(target)),
    "unit": lambda reward, is_unit: UnitGradient(reward) if _TRUTH[is_unit.lower()] else reward,
}  # in this order, from the inside out


def make_reward(text: str) -> Reward:
    """Make the reward of a name, with its own arguments if it has any.

    Raises:
        ArgumentError: an unknown name or argument; the message names the nearest.

    Example:
        >>> make_reward("darkness").differentiable
        True
    """
    name = read_name(text)
    with ErrorBoundary(f"reward '{name}'", "when it was made"):
        reward = build_part(text, {name: find_maker(name)}, "reward")
    if not isinstance(reward, Reward):
        raise RewardError(f"reward '{name}': expected its package to make a Reward, got a {type(reward).__name__}")
    return reward


def parse_rewards(texts: Sequence[str]) -> Reward:
    """Make the reward of texts `NAME[:WEIGHT]` or `NAME:KEY=VALUE,...`; several are summed.

    Example:
        >>> parse_rewards(["brightness", "jpeg:0.01", "contrast:clamp=0.2,weight=2"]).name
        '1 brightness + 0.01 jpeg + 2 contrast'
    """
    if not texts:
        raise ArgumentError(
            f"expected a reward, got none; available: {', '.join(ENTRIES)}, or path/to/file.py:function"
        )
    parts = [parse_weighted(text) for text in texts]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return WeightedSum(dict(parts))


def parse_requirements(reward: Reward, texts: Sequence[str]) -> Reward:
    """A reward with the requirements of texts `NAME>=NUMBER` or `NAME<=NUMBER`, if there are any.

    Example:
        >>> parse_requirements(make_reward("contrast"), ["brightness>=0.4"]).name
        'contrast with brightness>=0.4'
    """
    requirements = []
    for text in texts:
        name, bound, at_most = parse_requirement(text)
        part, weight = parse_weighted(name)
        if weight != 1:
            raise ArgumentError(f"expected a requirement without a weight, got '{text}'; leave the weight out")
        requirements.append(Requirement(part, bound, at_most))
    return Constrained(reward, requirements) if requirements else reward


_SERVER = re.compile(r"(https?://(?:\[[^]]*\]|[^/:]*)(?::\d+)?(?:/[^:]*)?)(?::(.+))?")


def parse_weighted(text: str) -> tuple[Reward, float]:
    """Make the reward of one text, and read its weight."""
    if text.startswith(("http://", "https://")):
        match = _SERVER.fullmatch(text)
        url, rest = (match[1], match[2] or "") if match else (text, "")
        makers = {"server": _remote_maker(url)}
        return _apply(text, rest, lambda own: build_part(f"server:{own}" if own else "server", makers, "reward"))
    path, mark, rest = text.rpartition(".py:")
    if mark:
        function, _, arguments = rest.partition(":")
        return _apply(text, arguments, lambda own: _from_file(Path(path + ".py"), function, own))
    name, _, rest = text.partition(":")
    return _apply(text, rest, lambda own: make_reward(f"{name}:{own}" if own else name))


def _apply(text: str, rest: str, make: Callable[[str], Reward]) -> tuple[Reward, float]:
    """A reward and its weight from the arguments after its name: its own ones go to `make`."""
    own: list[str] = []
    shared: dict[str, str] = {}
    for number, piece in enumerate(split_commas(rest) if rest else ()):
        key, equals, value = (part.strip() for part in piece.partition("="))
        key, value = (key, value) if equals or number else ("weight", key)
        if key not in (*SHAPES, "weight", "name"):
            own.append(piece)
        elif key in shared:
            raise ArgumentError(f"reward '{text}' gives '{key}' twice: give it once")
        else:
            shared[key] = value
    weight = _weight(shared.get("weight", ""), text)
    reward: Any = make(",".join(own))
    reward.name = shared.get("name") or reward.name
    for key, shape in SHAPES.items():
        if key in shared:
            try:
                reward = shape(reward, shared[key])
            except (ValueError, KeyError) as error:
                if isinstance(error, ArgumentError):
                    raise
                expected = "true or false" if key in ("unit", "recompute") else "a number"
                raise ArgumentError(f"{key} of reward '{text}' must be {expected}, got '{shared[key]}'") from None
    return reward, weight


def _remote_maker(url: str) -> Callable[..., Reward]:
    """Makes a remote reward from arguments that may be written down; a token may not."""
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
        raise ArgumentError(f"the weight of reward '{text}' must be a number, as in 'jpeg:0.5', got '{weight}'")
    return number


def _from_file(path: Path, name: str, own: str) -> Reward:
    """Run a user's file and take a reward, or a function to make one of, from it, which has no arguments of its own."""
    if own:
        raise ArgumentError(f"{path}:{name} takes a weight, {', '.join(SHAPES)} and name, got '{own}'; leave that out")
    check_file(path, "a reward of your own")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    with ErrorBoundary(str(path), "when it was run"):
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            hint = choices(name, functions) if functions else "it defines no function"
            raise ArgumentError(f"{path} has no '{name}'; {hint}")
        reward = getattr(module, name)
        return reward if isinstance(reward, Reward) else FunctionReward(reward, name=name)
