"""Runs on disk: what was asked (spec), what happened (store), and doing it (execute)."""

from noiseward.options.run import RunSpec
from noiseward.runs.claim import Claim
from noiseward.runs.execute import execute, resume
from noiseward.runs.store import RunFolder, find_runs

__all__ = ["Claim", "RunFolder", "RunSpec", "execute", "find_runs", "resume"]
