"""What does the image test see? Fresh samples, samples that were spoiled, and steps of ascent without a guard.

The built-in model with the calls of its card. Six captions that leave the background open and six that name one. For
each caption

* 24 fresh samples are tested: a share of about a of their probabilities should be below a;
* the same samples are spoiled: half of their contrast, a shift of all colors, another caption's sample, the same noun
  on another background;
* brightness is raised by `dno:lr=0.02,guard=none` from 4 of them, and after 2, 4, 8 and 16 steps all tests are made,
  P(z), the strict one and the image test, next to what the judge says of the noun.

Writes `experiments/results/image_tests.json` and the table in docs/guards.md. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.cells import Cell, add_engine, compute, read_engine
from experiments.judge import right_noun
from experiments.report import model, write
from experiments.support import insert
from noiseward import Budget, GradientAscent, ImageTest, Objective, iterate, stickers
from noiseward.noise.regularize import probability
from noiseward.noise.typicality import strict_probability
from noiseward.pipelines.open import open_sampler
from noiseward.rewards.parse import make_reward
from noiseward.samplers.steps import watch_state
from training.evaluate import wilson
from training.words import caption

NAME, PAGE = "image_tests", Path(__file__).parents[1] / "docs" / "guards.md"
CAPTIONS, FRESH, ROWS, LOOKS = 6, 24, 4, (2, 4, 8, 16)
COLORS = ("blue", "black", "red", "white", "green", "yellow")
SPOILED = {
    "half the contrast": "flat",
    "all colors shifted": "shifted",
    "another noun": "noun",
    "another background": "ground",
}


def captions() -> list[tuple[str, str | None]]:
    """Nouns and colors."""
    nouns = stickers.nouns()
    chosen = [nouns[number * 17 % len(nouns)] for number in range(2 * CAPTIONS)]
    return [(noun, None if number % 2 else COLORS[number // 2]) for number, noun in enumerate(chosen)]


def sample(sampler: Any, prompt: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise and final states."""
    noise = sampler.init(count, seed=seed)
    with torch.no_grad(), watch_state() as watch:
        sampler(noise, prompt)
    assert watch.state is not None
    return noise, watch.state


def look(noun: str, color: str | None, fresh: int, looks: tuple[int, ...]) -> dict[str, Any]:
    """One caption: probabilities of fresh and of spoiled samples, and of steps of ascent."""
    sampler, prompt = open_sampler("stickers"), caption(noun, color)
    test = ImageTest(sampler)
    noise, state = sample(sampler, prompt, fresh, 7000)
    found: dict[str, Any] = {"fresh": test(noise, state, prompt).tolist()}
    few, some = noise[:8], state[:8]
    other = next(one for one, _ in captions() if one != noun)
    ground = next(one for one in COLORS if one != color)
    spoiled = {
        "flat": some.mean((2, 3), keepdim=True) + 0.5 * (some - some.mean((2, 3), keepdim=True)),
        "shifted": some + 0.5 * some.std(),
        "noun": sample(sampler, caption(other, color), len(few), 7100)[1],
        **({"ground": sample(sampler, caption(noun, ground), len(few), 7200)[1]} if color else {}),
    }
    found |= {name: test(few, changed, prompt).tolist() for name, changed in spoiled.items()}
    objective, steps = Objective(sampler, make_reward("brightness"), prompt), {}
    budget = Budget(steps=max(looks))
    for step in iterate(objective, noise[:ROWS], optimizer=GradientAscent(lr=0.02), budget=budget):
        if step.index in (0, *looks):
            steps[step.index] = {
                "reward": step.evaluation.reward.tolist(),
                "probability": probability(step.noise, sampler.layout).tolist(),
                "strict": strict_probability(step.noise, sampler.layout)[0].tolist(),
                "image": test(step.noise, None, prompt).tolist(),
                "right": right_noun(step.evaluation.sample, [noun] * ROWS),
            }
    return {**found, "steps": steps}


def share(values: list[float], level: float) -> str:
    """How many of some probabilities are below a level, with a 95 % interval."""
    below = sum(value < level for value in values)
    low, high = wilson(below, len(values))
    return f"{below / len(values):.0%} ({low:.0%} to {high:.0%})"


def lines(found: list[dict[str, Any]], looks: tuple[int, ...]) -> list[str]:
    """The tables, in Markdown."""

    def pool(name: str) -> list[float]:
        return [p for one in found for p in one.get(name, ())]

    text = ["| samples | P(image) below 0.01 | below 0.1 | below 0.5 |", "|---|---|---|---|"]
    for title, name in {"fresh": "fresh", **SPOILED}.items():
        if values := pool(name):
            shares = [share(values, level) for level in (0.01, 0.1, 0.5)]
            text.append(f"| {title}, {len(values)} | {' | '.join(shares)} |")
    text += ["", "| step | brightness | noun right | P(z) < 0.1 | strict < 0.001 | P(image) < 0.1 |", "|" + "---|" * 6]
    for index in (0, *looks):
        seen = [one["steps"].get(str(index), one["steps"].get(index)) for one in found]
        each = {name: [p for one in seen for p in one[name]] for name in seen[0]}
        mean = sum(each["reward"]) / len(each["reward"])
        right = sum(each["right"]) / len(each["right"])
        tests = (share(each["probability"], 0.1), share(each["strict"], 1e-3), share(each["image"], 0.1))
        text.append(f"| {index} | {mean:.3f} | {right:.0%} | {' | '.join(tests)} |")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="two captions; no page is written")
    add_engine(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked, looks = (captions()[:2], LOOKS[:1]) if arguments.small else (captions(), LOOKS)
    fresh = 8 if arguments.small else FRESH
    cells = {
        one: Cell({"caption": one, "fresh": fresh, "looks": looks, "model": model()}, partial(look, *one, fresh, looks))
        for one in asked
    }
    found = list(compute(NAME, cells, engine=read_engine(arguments)).values())
    text = lines(found, looks)
    print("\n".join(text))
    if arguments.small:
        return
    settings = {"captions": [caption(*one) for one in asked], "fresh": fresh, "rows": ROWS, "model": model()}
    verdict = f"fresh samples below 0.1: {share([p for one in found for p in one['fresh']], 0.1)}"
    write(NAME, settings=settings, results=found, verdict=verdict)
    PAGE.write_text(
        insert(PAGE.read_text(encoding="utf-8"), "image test", "\n".join(["", *text, "", ""])), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
