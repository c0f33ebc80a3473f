"""What commands print for programs: JSON, in which a number that is not finite is null."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.errors import shorten
from noiseward.options.run import RunSpec

__all__ = ["JsonFlag", "print_json", "say_loading"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs: docs/scripting.md has its keys.")]


def print_json(value: Any) -> None:
    """Print plain data, dataclasses and paths as JSON.

    Example:
        >>> print_json({"gain": float("nan")})
        {
         "gain": null
        }
    """
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False))


def say_loading(spec: RunSpec, out: Path | None = None) -> None:
    """Give a first sign of life, before torch is imported, which takes seconds; `out` is where results will be."""
    what = shorten(f"{spec.model} and {' + '.join(spec.reward)}", 300)
    where = f", into {out}" if out else ""
    print(f"loading {what}{where} ...", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
