"""Runs on disk: what was asked (spec), what happened (store), and doing it (execute)."""

from noiseward.runs.execute import execute, fresh_folder, resume
from noiseward.runs.spec import RunSpec
from noiseward.runs.store import RunFolder, find

__all__ = ["RunFolder", "RunSpec", "execute", "find", "fresh_folder", "resume"]
