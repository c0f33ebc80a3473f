"""Options of earlier versions, and what to write today."""

from __future__ import annotations

from typing import Any

__all__ = ["REPLACED", "REPLACED_METHODS", "renamed"]

REPLACED = {
    "search": "{}",
    "optimizer": "{}",
    "estimator": "dno:estimator={}",
    "lr": "dno:lr={}",
    "best_of": "dno:best_of={}",
    "coarse": "dno:coarse={}",
    "project": "dno:project={}",
    "regularizer": "dno:guard={}",
}
"""How the method says what an option of its own said before."""
REPLACED_METHODS = {
    "dno-best": "dno:best_of=16",
    "dno-start": "dno:project=start",
    "dno-guarded": "dno:guard=concentration:min_probability=0.1",
    "dno-few": "dno:coarse=10",
    "dno-hybrid2": "dno:estimator=hybrid2",
    **{name: f"dno:estimator={name}" for name in ("backprop", "annealed", "hybrid2", "hybrid1", "zeroth-order")},
}
"""What had a name of its own in earlier versions, and is an argument of `dno` now."""


def renamed(name: str, value: Any = None) -> str:
    """What to say to someone who gives an option of an earlier version.

    Example:
        >>> renamed("best_of", 16), renamed("--lr", "0.05")
        ("best_of is an argument of the method now; use method='dno:best_of=16'",
        '--lr is an argument of the method now; use --method dno:lr=0.05')
    """
    is_flag = name.startswith("--")
    known = REPLACED[name.removeprefix("--").replace("-", "_")]
    joined = "+".join(map(str, value)) if isinstance(value, list | tuple) else value
    text = known.format(joined if isinstance(joined, str | int | float) else "...")
    what = "the method" if known == "{}" else "an argument of the method"
    return f"{name} is {what} now; use {f'--method {text}' if is_flag else f'method={text!r}'}"
