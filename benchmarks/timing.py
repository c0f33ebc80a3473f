"""Things timed in turns, so that what slows one slows the others, and how the times are written down."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each function in each of several turns, after one turn to warm up.

    With `time.process_time` as the clock, one thread's seconds are those it computed, whatever else was running.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            begun = clock()
            function()
            if turn:
                seconds[name].append(clock() - begun)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times longer one took than the other, turn by turn: median, least and most."""
    turns = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(turns), "least": min(turns), "most": max(turns)}


def format_ratio(ratio: Mapping[str, float]) -> str:
    """A ratio in a table's cell."""
    return f"{ratio['median']:.3g} ({ratio['least']:.3g} to {ratio['most']:.3g})"


def processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(name: str, *, settings: dict[str, Any], results: Any, text: str, small: bool = False) -> None:
    """Write a benchmark's numbers as JSON and as the page people read, and print the latter; a small one is printed."""
    if small:
        print(text)
        return
    RESULTS.mkdir(exist_ok=True)
    machine = {"processor": processor(), "python": platform.python_version(), "torch": version("torch")}
    content = {"settings": settings, "machine": machine, "results": results}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
