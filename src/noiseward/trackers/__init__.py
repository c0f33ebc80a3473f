"""Experiment trackers: the numbers and images of a run, in TensorBoard, Weights & Biases, MLflow or Trackio.

A tracker consumes steps: :func:`track` passes them on and writes down what they say. Nothing else changes.
"""

from noiseward.trackers.open import TRACKERS, Log, check_trackers, list_trackers, open_tracker
from noiseward.trackers.track import track
from noiseward.trackers.tracker import TrackedRun, Tracker

__all__ = ["TRACKERS", "Log", "TrackedRun", "Tracker", "check_trackers", "list_trackers", "open_tracker", "track"]
