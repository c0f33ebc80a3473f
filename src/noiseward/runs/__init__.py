"""Runs on disk: what was asked (spec), what happened (store), and doing it (execute).

Names are loaded when they are first used: reading a run needs no torch, and doing one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noiseward.options.run import RunSpec
    from noiseward.runs.claim import Claim
    from noiseward.runs.perform import execute, resume
    from noiseward.runs.rendering import render
    from noiseward.runs.store import RunFolder, find_runs

__all__ = ["Claim", "RunFolder", "RunSpec", "execute", "find_runs", "render", "resume"]

_HOMES = {
    "Claim": "noiseward.runs.claim",
    "RunFolder": "noiseward.runs.store",
    "RunSpec": "noiseward.options.run",
    "execute": "noiseward.runs.perform",
    "find_runs": "noiseward.runs.store",
    "render": "noiseward.runs.rendering",
    "resume": "noiseward.runs.perform",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'noiseward.runs' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
