"""Optimization of the built-in model under a guard, with measures that are never optimized.

Measured every few steps: the reward, P(z), the strict P(z), and the judge's verdict on noun and
background (`judge.py`). Images of the start, the last and the best noise are stored next to the cells.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from experiments.built_in import CALL
from experiments.judge import judge_nouns, right_background
from noiseward import Step, strict_probability
from noiseward.images import draw_grid, to_images
from noiseward.loop.collect import collect
from noiseward.options.parts import join_part
from noiseward.options.run import Settings
from noiseward.problem import prepare
from training.words import caption

__all__ = ["GROUPS", "RATE", "Guard", "optimize", "label_rows"]

RATE = 0.05  # five times the default, so that there is something to guard against
GROUPS = {  # reward, background named in the caption
    "brightness, neutral": ("brightness", None),
    "brightness, contradicted": ("brightness", "black"),
    "darkness, neutral": ("darkness", None),
    "darkness, contradicted": ("darkness", "white"),
}


@dataclasses.dataclass(frozen=True)
class Guard:
    """What is done to keep noise plausible."""

    regularizer: str | None = None
    project: tuple[str, ...] = ()
    rate: float = RATE
    eta: float = 1.0

    @property
    def method(self) -> str:
        """What `align` takes."""
        parts = {"guard": self.regularizer or "none", "project": "+".join(self.project) or None}
        return join_part("dno", {"lr": self.rate, **{name: part for name, part in parts.items() if part}})


def measure(step: Step, layout: Any, nouns: list[str], color: str | None) -> dict[str, Any]:
    """What is measured along the way; one number per row each."""
    sample = step.evaluation.sample
    return {
        "index": step.index,
        "reward": step.evaluation.reward.tolist(),
        "probability": step.probability.tolist(),
        "strict": strict_probability(step.noise, layout)[0].tolist(),
        "noun": judge_nouns(sample, nouns),
        "background": right_background(sample, [color] * len(nouns)) if color else None,
    }


def optimize(
    guard: Guard,
    group: str,
    rows: Sequence[tuple[str, int]],
    *,
    steps: int,
    every: int,
    images: Path,
    sampler_steps: int = CALL["num_inference_steps"],
) -> dict[str, Any]:
    """Optimize with a guard.

    Arguments:
        guard: what keeps the noise plausible.
        group: which reward and captions, of `GROUPS`.
        rows: noun and seed of each.
        steps: of the ascent.
        every: how many steps lie between two measurements.
        images: where to save them: three lines, start, last and best.
        steps: of the sampler.
    """
    reward, color = GROUPS[group]
    nouns, seeds = [noun for noun, _ in rows], [seed for _, seed in rows]
    problem = prepare(
        "stickers",
        [caption(noun, color) for noun in nouns],
        reward,
        Settings(steps=steps, call={**CALL, "num_inference_steps": sampler_steps, "eta": guard.eta}),
        method=guard.method,
        watch=(),
    )
    sampler = problem.objective.sampler
    problem = dataclasses.replace(problem, noise=sampler.init(len(rows), seed=seeds))
    along: list[dict[str, Any]] = []

    def watch_steps():
        for step in problem.iterate():
            if step.index % every == 0 or step.next_noise is None:
                along.append(measure(step, sampler.layout, nouns, color))
            yield step

    solution = collect(watch_steps(), problem.objective)
    images.parent.mkdir(parents=True, exist_ok=True)
    shown = (solution.initial.sample, solution.last.evaluation.sample, solution.sample)
    draw_grid([to_images(sample) for sample in shown]).save(images)
    best = {
        "reward": solution.reward.tolist(),
        "probability": solution.probability,
        "strict": solution.strict_probability,
        "noun": judge_nouns(solution.sample, nouns),
        "background": right_background(solution.sample, [color] * len(rows)) if color else None,
    }
    return {"along": along, "best": best, "seconds": solution.seconds, "nfe": solution.nfe.cost}


def label_rows(lines: Sequence[tuple[str, Image.Image]], scale: int = 2) -> Image.Image:
    """Rows of images with a title each."""
    width, height = lines[0][1].size
    canvas = Image.new("RGB", (width * scale, (height * scale + 18) * len(lines)), "white")
    for number, (title, row) in enumerate(lines):
        top = number * (height * scale + 18)
        ImageDraw.Draw(canvas).text((2, top + 3), title, fill="black")
        canvas.paste(row.resize((width * scale, height * scale), Image.Resampling.NEAREST), (0, top + 18))
    return canvas


def read_line(path: Path, which: int) -> Image.Image:
    """A line of the stored images of a run: 0 the start, 1 the last, 2 the best."""
    all_three = Image.open(path)
    height = (all_three.height - 8) // 3
    return all_three.crop((0, which * (height + 4), all_three.width, which * (height + 4) + height))
