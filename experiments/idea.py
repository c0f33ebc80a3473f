"""The two figures of docs/understand/idea.md: an image and its noise before and after, and what tests of noise reject.

    python -m experiments.idea          needs results/concentration.json; a minute
    python -m experiments.idea --small  2 steps, and the figures of the docs are left alone

The run is of the built-in model with seed 0, stays with the seed's image, and ends at a target. Of its noise one
channel of the draw of the first denoising step is shown, gray from -3 to 3.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.report import RESULTS, write
from noiseward import Solution, align

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROMPT, REWARD, TARGET = "a duck", "brightness", 0.85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="2 steps, and the figures of the docs are left alone")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    method = "auto:keep_seed=true"
    steps = 2 if small else 30
    solution = align("stickers", PROMPT, REWARD, method=method, steps=steps, target=TARGET, num_inference_steps=10)
    if not small:
        draw_run(solution).savefig(PICTURES / "idea-noise.png", dpi=100)
        found = json.loads((RESULTS / "concentration.json").read_text(encoding="utf-8"))
        draw_tests(found["table"], found["settings"]["rows"]).savefig(PICTURES / "idea-tests.png", dpi=100)
    results = {
        "reward": [solution.initial.reward.item(), solution.reward.item()],
        "turned by, degrees": turn(solution.layout.draw_noise([0]), solution.noise),
        "strict P(z)": solution.strict_probability[0],
        "P(image)": solution.image_probability[0],
    }
    before, after = results["reward"]
    text = f"reward {before:.2f} -> {after:.2f}, noise turned by {results['turned by, degrees']:.0f} degrees"
    settings = {"prompt": PROMPT, "seed": 0, "method": method, "target": TARGET, "small": small}
    write("idea", settings=settings, results=results, verdict=text)


def turn(before: Tensor, after: Tensor) -> float:
    """The angle between the noise before and after, in degrees; 90 for two that are independent."""
    one, other = before.flatten().double(), after.flatten().double()
    return torch.rad2deg(torch.arccos((one @ other / (one.norm() * other.norm())).clamp(-1, 1))).item()


def draw_run(solution: Solution) -> Figure:
    """Noise, image and reward: the start above, the result below."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    panels = figure.subplots(2, 3, width_ratios=(1, 1, 0.6))
    starts = ("start", solution.layout.draw_noise([0]), solution.initial_images[0], solution.initial.reward)
    ends = ("result", solution.noise, solution.images[0], solution.reward)
    for line, (name, noise, image, reward) in zip(panels, (starts, ends), strict=True):
        line[0].imshow(noise[0, 1, 0].numpy(), cmap="gray", vmin=-3, vmax=3)
        line[1].imshow(numpy.asarray(image), interpolation="bicubic")
        line[2].text(0.5, 0.5, f"{reward.item():.2f}", ha="center", va="center", fontsize=22)
        line[0].set_ylabel(name, fontsize=11)
        for axes in line:
            clear(axes)
        for axes, label in ((line[0], "sampler"), (line[1], "reward")):
            axes.annotate(label, (1.14, 0.56), xycoords="axes fraction", ha="center", fontsize=9)
            arrow = {"arrowstyle": "->", "linewidth": 1.5}
            axes.annotate("", (1.26, 0.5), (1.02, 0.5), xycoords="axes fraction", arrowprops=arrow)
    for axes, title in zip(panels[0], ("noise (part of it)", "image", REWARD), strict=True):
        axes.set_title(title, fontsize=11)
    return figure


def draw_tests(table: list[list[Any]], samples: int) -> Figure:
    """How often P(z) and the strict P(z) reject noise with each flaw, as a table in shades of gray."""
    lines = [(flaw, [float(cell.rstrip("% ")) for cell in cells[2:]]) for flaw, *cells in table[1:]]
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow([shares for _, shares in lines], cmap="Greys", vmin=0, vmax=100, aspect="auto")
    for y, (_, shares) in enumerate(lines):
        for x, share in enumerate(shares):
            color = "white" if share > 50 else "black"
            axes.text(x, y, f"{share:.0f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(2), ["P(z)", "strict P(z)"], fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(lines)), [flaw for flaw, _ in lines], fontsize=9)
    axes.set_xlabel(f"% of {samples} noise samples rejected", fontsize=9)
    return figure


def clear(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
