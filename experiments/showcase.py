"""The image that opens the README: three prompts, three rewards, the built-in model, `align` as it comes.

Seed 0 for each, 30 steps at most, the default method. Prompts and rewards were chosen for an earlier version of the
model, and kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from experiments.report import write
from noiseward import Solution, align
from noiseward.images import draw_strip

CASES = (("a duck", "brightness"), ("a rabbit", "darkness"), ("a heart", "saturation"))
FRAMES = 5
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "readme.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="4 steps, and the README's image is left alone")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    steps, strips, results = 4 if small else 30, [], {}
    for prompt, reward in CASES:
        solution = align("stickers", prompt, reward, steps=steps, seed=0)
        results[f"{prompt}, {reward}"] = {
            "before": solution.initial.reward.item(),
            "best": solution.reward.item(),
            "probability": solution.probability[0],
            "seconds": solution.seconds,
        }
        strips.append(shorten(solution, f"{prompt}: {reward}"))
    if not small:
        stack(strips).save(PICTURE)
    numbers = (
        f"{case} {r['before']:.2f} -> {r['best']:.2f} (P(z) {r['probability']:.1g})" for case, r in results.items()
    )
    write("showcase", settings={"steps": steps, "seed": 0, "small": small}, results=results, verdict="; ".join(numbers))


def shorten(solution: Solution, title: str) -> Image.Image:
    """The strip of a run with a few of its frames."""
    frames = list(solution.frames)
    chosen = frames[:: max(1, -(-len(frames) // FRAMES))]
    rises = f"{title} {solution.initial.reward.item():.2f} -> {solution.reward.item():.2f}"
    return draw_strip(solution.initial.sample, chosen, solution.sample, solution.index.tolist(), captions=[rises])


def stack(strips: list[Image.Image]) -> Image.Image:
    """Strips above each other."""
    canvas = Image.new(
        "RGB", (max(strip.width for strip in strips), sum(strip.height + 8 for strip in strips)), "white"
    )
    top = 0
    for strip in strips:
        canvas.paste(strip, (0, top))
        top += strip.height + 8
    return canvas


if __name__ == "__main__":
    main()
