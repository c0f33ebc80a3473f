"""The plot of a run: reward and P(z) against steps."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from noiseward.errors import shorten

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["plot_history"]

FAILED = -1e9  # rewards from there on down are of samples that fail requirements, and are left out of plots


def plot_history(
    history: Sequence[dict[str, Any]],
    *,
    hacked: Mapping[int, int] = MappingProxyType({}),
    names: Sequence[str] = (),
    title: str = "",
) -> Image:
    """Plot reward, watched rewards, P(z) and P(image) of every row against the step, one line per row, legible in gray.

    Arguments:
        history: records as `Step.record` gives them.
        hacked: by row, the step at which likely reward hacking begins; it is marked (`panel.find_hacked`).
        names: of the rows; default: their numbers.
        title: above the plot.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no window

    watched = [record for record in history if record.get("watched")]
    judges = list(watched[0]["watched"]) if watched else []
    steps = [record["index"] for record in history]
    rows = len(history[0]["reward"])
    figure = Figure(figsize=(7, 5 + len(judges)), layout="constrained")
    ratios = (3, *(1 for _ in judges), 1)
    above, *between, below = figure.subplots(2 + len(judges), 1, sharex=True, height_ratios=ratios)
    styles = ["-", "--", ":", "-."]
    for row in range(rows):
        style = {"color": f"C{row % 10}", "linestyle": styles[row % 4], "marker": "." if len(steps) < 3 else ""}
        rewards = [record["reward"][row] for record in history]
        shown = [math.nan if reward is None or reward <= FAILED else reward for reward in rewards]
        above.plot(steps, shown, label=shorten(names[row], 60) if names else f"row {row}", **style)
        below.plot(steps, [max(record["probability"][row], 1e-12) for record in history], **style)
        tested = [(record["index"], record["image"][row]) for record in history if record.get("image")]
        seen = [(index, max(p, 1e-12)) for index, p in tested if p is not None]
        below.scatter(*zip(*seen, strict=True), s=14, marker="x", color=style["color"]) if seen else None
        for name, axes in zip(judges, between, strict=True):
            axes.plot([one["index"] for one in watched], [one["watched"][name][row] for one in watched], **style)
        if row in hacked:
            for axes in (above, *between):
                label = "likely reward hacking from here on" if axes is above else None
                axes.axvline(hacked[row], color=style["color"], linewidth=0.8, linestyle=":", label=label)
    for name, axes in zip(judges, between, strict=True):
        axes.set_ylabel(f"{shorten(name, 40)}\n(watched)", fontsize=8, parse_math=False)  # no formula in $...$
        axes.grid(alpha=0.3)
    above.set_ylabel(shorten(f"reward ({' + '.join(history[0]['terms'])})", 80), parse_math=False)
    above.set_title(shorten(title, 120), parse_math=False)
    above.grid(alpha=0.3)
    crosses = any(record.get("image") for record in history)
    below.set(ylabel="P(z), x: P(image)" if crosses else "P(z)", xlabel="step", yscale="log")
    below.set_ylim(min(0.03, below.get_ylim()[0]), 2)
    below.axhline(0.1, color="0.5", linewidth=0.8)
    below.annotate(
        "fresh noise: above this line", (1, 0.1), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=7
    )
    below.grid(alpha=0.3)
    if (rows > 1 or names or hacked) and rows <= 12:
        legend = above.legend(fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
