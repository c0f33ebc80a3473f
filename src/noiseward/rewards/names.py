"""Which names of rewards there are: checked without loading one, and without torch."""

from __future__ import annotations

import re
from pathlib import Path

from noiseward.errors import ArgumentError, choices
from noiseward.rewards.catalog import ENTRIES, list_installed
from noiseward.rewards.shortfall import parse_requirement
from noiseward.user_code import check_file

__all__ = ["check_requirement", "check_reward", "read_name"]


def check_requirement(text: str) -> None:
    """Raise `ArgumentError` if a text is no requirement, or names no reward; nothing is loaded."""
    check_reward(parse_requirement(text)[0])


def check_reward(text: str) -> None:
    """Raise `ArgumentError` if a text names no reward, or a file that is not there; nothing is loaded.

    Example:
        >>> check_reward("jpeg:0.5")
        >>> check_reward("photo.png")
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: expected a reward, got the file 'photo.png'; give a name ('noiseward rew...
    """
    path, mark, _ = text.rpartition(".py:")
    if mark:
        check_file(Path(f"{path}.py"), "a reward of your own")
    elif not text.startswith(("http://", "https://")):
        read_name(text)


def read_name(text: str) -> str:
    """The name that a text begins with, which is that of a reward.

    Raises:
        ArgumentError: it is none.
    """
    name = text.partition(":")[0].strip()
    known = [*ENTRIES, *list_installed()] if name not in ENTRIES else [name]
    if name in known:
        return name
    own = "path/to/file.py:function"
    if re.search(r"[/\\]|\.[a-z]\w{0,5}$", name):
        own = f"{name}:function" if name.endswith(".py") else own
        raise ArgumentError(
            f"expected a reward, got the file '{name}'; give a name ('noiseward rewards' lists them), or {own}"
        )
    raise ArgumentError(f"unknown reward '{name}'; {choices(name, known)}, or {own}, or http://host:port")
