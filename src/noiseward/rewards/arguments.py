"""The arguments of a reward's own, as its maker's signature and docstring have them."""

from __future__ import annotations

import dataclasses
import inspect
import re

from noiseward.rewards.catalog import find_maker

__all__ = ["RewardArgument", "list_arguments"]


@dataclasses.dataclass(frozen=True)
class RewardArgument:
    """An argument of a reward's own: `hpsv2:version=2.0`.

    Arguments:
        name: before the equals sign.
        default: as text; empty where there is none.
        does: a line, or nothing where the maker says nothing.
    """

    name: str
    default: str
    does: str


def list_arguments(reward: str) -> list[RewardArgument]:
    """List a reward's own arguments.

    Arguments:
        reward: a name that `read_name` has checked. Its module is imported, and torch with it.

    Raises:
        RewardError: another package's reward that cannot be imported.

    Example:
        >>> [(one.name, one.default) for one in list_arguments("hpsv2")]
        [('version', '2.1'), ('path', ''), ('tokenizer', '')]
    """
    maker = find_maker(reward)
    _, _, rest = (inspect.getdoc(maker) or "").partition("Arguments:\n")
    told = re.sub(r"\n {5,}", " ", rest.partition("\n\n")[0])
    means = {key: words for keys, words in re.findall(r"^ {4}([\w, ]+): (.*)$", told, re.M) for key in keys.split(", ")}
    return [
        RewardArgument(key, _text(one.default), means.get(key, "").rstrip("."))
        for key, one in inspect.signature(maker).parameters.items()
    ]


def _text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default in (None, inspect.Parameter.empty) else str(default)
