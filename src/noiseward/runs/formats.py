"""Specs of earlier formats, in today's words.

Formats 1 and 2 described the method in seven fields, which are one method now. Up to format 3, results had to pass
no tests unless a guard was named. Such a file is read forever; one that is written again, with a larger budget, keeps
its form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noiseward.errors import ArgumentError, shorten
from noiseward.options.parts import join_part, split_arguments

__all__ = ["upgrade", "upgrade_method"]

_MOVES = ("lr", "estimator", "search", "best_of", "regularizer", "project", "coarse")
_TYPES = {"lr": float | int, "best_of": int, "coarse": int, "project": list}
_DEFAULTS = {"lr": 0.01, "project": []}
_VARIANTS = {
    "dno-best": "samples",
    "dno-start": "lr",
    "dno-guarded": "target",
    "dno-few": "steps",
    "dno-hybrid2": "samples",
}


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec of an earlier format as those of today.

    Example:
        >>> upgrade({"lr": 0.02, "regularizer": "shell:0.1", "steps": 3})
        {'steps': 3, 'method': 'dno:lr=0.02,guard=shell:0.1'}
        >>> upgrade({"method": "dno:lr=0.02", "steps": 3})
        {'method': 'dno:lr=0.02,guard=none', 'steps': 3}
    """
    if isinstance(method := content.get("method"), str):
        return {**content, "method": _without_tests(method)}
    fields = {name: value for name, value in content.items() if name not in _MOVES}
    moves = {
        name: value for name in _MOVES if (value := content.get(name)) is not None and value != _DEFAULTS.get(name)
    }
    for name, value in moves.items():
        if not isinstance(value, _TYPES.get(name, str)) or isinstance(value, bool):
            raise ArgumentError(f"{name} is not what it was when it was written, got {shorten(repr(value), 60)}")
    return {**fields, "method": _without_tests(_method(moves))} if moves else fields


def _without_tests(method: str) -> str:
    """A method that results of which pass no tests, as all did that named no guard."""
    guarded = any(key == "guard" for key, _ in split_arguments(method, first="", what="method"))
    return method if guarded else f"{method}{',' if ':' in method else ':'}guard=none"


def _method(moves: Mapping[str, Any]) -> str:
    """The method that the fields of earlier formats describe."""
    search = str(moves.get("search", ""))
    more = {} if search else {name: moves[name] for name in ("lr", "estimator", "best_of") if name in moves}
    if "coarse" in moves:
        more["coarse"] = moves["coarse"]
    if moves.get("project"):
        more["project"] = "+".join(map(str, moves["project"]))
    if "regularizer" in moves:
        more["guard"] = moves["regularizer"]
    text = search or "dno"
    return f"{text}{',' if ':' in text else ':'}{join_part('', more)[1:]}" if more else text


def upgrade_method(text: str) -> str:
    """A method of an earlier comparison by its name of today; arguments of `dno` had names of their own.

    Example:
        >>> upgrade_method("dno-best:lr=0.02"), upgrade_method("dno-few:steps=5,through=linear"), upgrade_method("reno")
        ('dno:lr=0.02,best_of=16', 'dno:coarse=5,estimator=backprop:through=linear', 'reno')
    """
    name = text.partition(":")[0].strip()
    if name not in _VARIANTS:
        return text
    given = dict(split_arguments(text, first=_VARIANTS[name], what="method"))
    own = {"lr": given.pop("lr")} if "lr" in given else {}
    if name == "dno-best":
        own["best_of"] = given.get("samples", "16")
    elif name == "dno-start":
        own["project"] = "start"
    elif name == "dno-guarded":
        own["guard"] = f"concentration:min_probability={given.get('target', '0.1')}"
    elif name == "dno-few":
        own["coarse"] = given.get("steps", "10")
        own |= {"estimator": f"backprop:through={given['through']}"} if "through" in given else {}
    else:
        own["estimator"] = join_part("hybrid2", given)
    return join_part("dno", own)
