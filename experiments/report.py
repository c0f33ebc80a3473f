"""How an experiment is written down: settings, versions, numbers with 95 % intervals, a verdict, a picture."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 15: 2.13, 31: 2.04}


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    freedom = len(values) - 1
    if freedom < 1:
        return {"mean": values[0], "half": math.nan, "n": len(values)}
    quantile = next((t for known, t in sorted(T95.items(), reverse=True) if known <= freedom), 12.71)
    return {
        "mean": statistics.fmean(values),
        "half": quantile * statistics.stdev(values) / math.sqrt(len(values)),
        "n": len(values),
    }


def write(name: str, *, settings: dict[str, Any], results: Any, verdict: str, figure: Any = None) -> None:
    """Write an experiment's results and print its verdict."""
    RESULTS.mkdir(exist_ok=True)
    versions = {library: version(library) for library in ("noiseward", "torch", "diffusers")}
    content = {
        "verdict": verdict,
        "settings": settings,
        "versions": {"python": platform.python_version(), **versions},
        "results": results,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=110)
    print(verdict)
