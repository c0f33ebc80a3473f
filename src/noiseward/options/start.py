"""Noise to start from, as an option holds it."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["Start"]


def _as_start(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is not None and not (isinstance(value, str) and value) and not hasattr(value, "detach"):
        raise ValueError("the path of a run or of a .safetensors file, or a tensor")
    return value


Start = Annotated[Any, BeforeValidator(_as_start), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
