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

from noiseward import stickers

RESULTS = Path(__file__).parent / "results"
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 15: 2.13, 31: 2.04,
       63: 2.00, 127: 1.98, 511: 1.96}  # fmt: skip


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


def say(one: dict[str, float], digits: int = 2, scale: float = 1.0) -> str:
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
