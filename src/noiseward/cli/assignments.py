"""`--set KEY=VALUE`: arguments of a pipeline's own call."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import typer

__all__ = ["assignments"]


def assignments(texts: Sequence[str] | None) -> dict[str, Any]:
    """Each `KEY=VALUE`, the value read as a Python literal where it is one.

    Example:
        >>> assignments(["guidance_rescale=0.7", "negative_prompt=a cat"])
        {'guidance_rescale': 0.7, 'negative_prompt': 'a cat'}
    """
    return dict(_assignment(text) for text in texts or [])


def _assignment(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name.isidentifier():
        raise typer.BadParameter(f"'{text}' given: KEY=VALUE wanted, as in guidance_rescale=0.7", param_hint="--set")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
