"""The plots of a comparison: reward against cost, and fidelity against reward. They are readable in grayscale."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from noiseward.errors import shorten
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.measure import Measured

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PLOTS"]

MARKS = "os^vD<>pXP*h"
STYLES = ("-", "--", ":", "-.")


def _draw_reward(comparison: Comparison, measured: Measured) -> Image:
    """Mean gain against cost, with 95% intervals at the end; methods named in the order they end in."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    for number, row in enumerate(measured.rows("1.0")):
        costs, gains = measured.curves[row.method]
        style = {"color": f"C{number % 10}", "linestyle": STYLES[number % 4], "marker": MARKS[number % len(MARKS)]}
        axes.plot(costs, [gain.mean for gain in gains], label=f"{row.rank}. {row.method}", markevery=[-1], **style)
        last = gains[-1]
        if last.half == last.half:
            shifted = costs[-1] * (1 + 0.01 * (number + 1))
            axes.errorbar([shifted], [last.mean], [last.half], color=style["color"], capsize=2, marker=style["marker"])
    unit = "denoiser calls per image (backward = 2)" if comparison.kind == "nfe" else "seconds per pack"
    axes.set(xlabel=unit, title="best so far, mean over prompts and seeds")
    axes.set_ylabel(_label(comparison), parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _to_image(figure)


def _draw_fidelity(comparison: Comparison, measured: Measured) -> Image:
    """The first held-out reward, or the strict probability where there is none, against the optimized reward."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    rows = measured.rows("1.0")
    name = next(iter(rows[0].held), None) if rows else None
    for number, row in enumerate(rows):
        high = row.held[name][1] if name else row.strict
        halves = [half if half == half else 0.0 for half in (row.gain.half, high.half)]
        place, color = (row.gain.mean, high.mean), f"C{number % 10}"
        axes.errorbar(*place, halves[1], halves[0], color=color, alpha=0.35, linewidth=1, linestyle="")
        label = f"{number + 1}: {row.method}"
        axes.plot(*place, color=color, marker=MARKS[number % len(MARKS)], linestyle="", label=label)
        axes.annotate(str(number + 1), place, (4, 3), textcoords="offset points", fontsize=8)
    axes.axhline(0.0, color="0.5", linewidth=0.8)
    label = f"change of {name} (held out)" if name else "strict probability"
    axes.set_title("at the whole budget; up and right is better")
    axes.set_xlabel(_label(comparison), parse_math=False)
    axes.set_ylabel(label, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _to_image(figure)


def _label(comparison: Comparison) -> str:
    return shorten(f"gain in {' + '.join(comparison.base.reward)}", 80)


def _to_image(figure: Any) -> Image:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


PLOTS = {"reward": _draw_reward, "fidelity": _draw_fidelity}
"""What draws each plot, by the name of its file."""
