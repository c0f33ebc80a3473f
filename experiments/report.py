"""How an experiment is written down: settings, versions, numbers with 95 % intervals, a verdict, an image."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from noiseward import stickers
from noiseward.sweep import intervals

RESULTS = Path(__file__).parent / "results"


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    return dataclasses.asdict(intervals.interval(values))


def format_mean(one: dict[str, float], digits: int = 2, scale: float = 1.0) -> str:
    """A mean and its interval as text: `1.23 ± 0.04`, or the number alone where there is no interval.

    Example:
        >>> say({"mean": 0.5, "half": 0.125, "n": 9}, 1, 100)
        '50.0 ± 12.5'
    """
    mean, half = one["mean"], one["half"]
    known = half is not None and math.isfinite(half)
    return f"{scale * mean:.{digits}f}" + (f" ± {scale * half:.{digits}f}" if known else "")


def model() -> str:
    """The version of the built-in model."""
    return json.loads((stickers.path().parent / "words.json").read_text(encoding="utf-8"))["version"]


def write(
    name: str,
    *,
    settings: dict[str, Any],
    results: Any,
    verdict: str,
    figure: Any = None,
    agreement: str | None = None,
    table: Sequence[Sequence[str]] = (),
    out: Path = RESULTS,
) -> None:
    """Write an experiment's results and print its verdict. Numbers that are not finite are written as null.

    Arguments:
        name: of the files.
        settings, results: plain data.
        verdict: a sentence.
        figure: a matplotlib figure.
        agreement: with the paper, where it is about the paper.
        table: head and lines of what people read.
        out: the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    versions = {library: version(library) for library in ("noiseward", "torch", "diffusers")}
    content = {
        "verdict": verdict,
        **({"agreement": agreement} if agreement else {}),
        "settings": settings,
        "versions": {"python": platform.python_version(), **versions, "stickers": model()},
        **({"table": table} if table else {}),
        "results": results,
    }
    text = json.dumps(_finite(json.loads(json.dumps(content))), indent=1, allow_nan=False, ensure_ascii=False)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if figure is not None:
        figure.savefig(out / f"{name}.png", dpi=110)
    print(verdict)


def _finite(data: Any) -> Any:
    """Plain data with null for what JSON has no number for."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
