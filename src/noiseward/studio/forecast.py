"""How long a run will take before it begins, from runs of the same model in the folder."""

from __future__ import annotations

from noiseward.loop.span import format_span
from noiseward.options.run import RunSpec
from noiseward.studio.live import Watcher
from noiseward.studio.places import Places

__all__ = ["forecast"]

LONG = 600.0  # seconds above which a run is remarked on
MANY = 300  # steps, where no pace is known
LOOKED_AT = 12  # runs at most


def forecast(spec: RunSpec, places: Places, watcher: Watcher) -> str:
    """A sentence on a run that will take long; empty for others.

    Arguments:
        spec: of the run.
        places: where other runs are.
        watcher: reads them.
    """
    from noiseward.runs.store import find_runs

    steps = spec.limits["steps"]
    if steps is None or spec.seconds is not None or spec.nfe is not None:
        return ""
    end = "Stop keeps the best so far, at any time."
    for run in find_runs(places.runs)[:LOOKED_AT] if places.runs.is_dir() else ():
        found = watcher.look(run.path)
        other, pace = found.spec, found.pace
        if other is None or pace is None or other.model != spec.model or other.rows == 0:
            continue
        if other.num_inference_steps != spec.num_inference_steps:
            continue
        seconds = steps * pace[0] * spec.rows / other.rows
        if seconds < LONG:
            return ""
        return f"{steps:,} steps take up to {format_span(seconds)} at the pace of {run.path.name}. {end}"
    return f"{steps:,} steps are many. How long they take is shown after the first few. {end}" if steps > MANY else ""
