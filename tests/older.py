"""Specs as earlier versions wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noiseward.options.run import RunSpec
from noiseward.runs.spec import parse_spec

__all__ = ["downgrade"]

MOVES = {"lr": 0.01, "estimator": None, "search": None, "best_of": None, "regularizer": None, "project": [],
         "coarse": None}  # fmt: skip


def downgrade(spec: RunSpec, number: int, **moves: Any) -> RunSpec:
    """A spec in an earlier format, with what was not part of a method then."""
    content = {name: value for name, value in spec.plain().items() if name not in ("method", *spec.arguments)}
    known = {name: value for name, value in content.items() if name in OLD}
    return parse_spec({**known, "call": spec.arguments, **MOVES, **moves, "format": number}, Path("spec.json"))


OLD = ("prompt", "reward", "model", "steps", "seconds", "nfe", "target", "batch", "seed", "watch", "watch_every",
       "memory", "scheduler", "lora", "dtype", "device")  # fmt: skip
