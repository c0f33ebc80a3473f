"""`--set KEY=VALUE`: arguments of a pipeline's own call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from noiseward.named import literal

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
        raise typer.BadParameter(f"expected KEY=VALUE, as in guidance_rescale=0.7, got '{text}'", param_hint="--set")
    return name, literal(value)
