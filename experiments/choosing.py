"""A person as the reward, played by a known taste: how far does choosing images get, and how many looks is it worth?

The built-in model at 10 denoising steps; three captions, four tastes that a person might have (light to the left,
strong contrast, detail, green), two seeds each. In every look the player sees 6 images, likes the two her taste rates
highest, and one click in ten is on a random image. After 5, 10 and 15 looks the best image shown so far is rated, in
standard deviations of the taste among 720 fresh images of the caption. Next to it: what the best of as many fresh
images is rated, and of four times as many, without any wrong click; and two other ways to continue from a look, a fixed
angle around the image that is liked best, which is what tools that "vary" an image do, and the search without its
discount.

Writes `experiments/results/choosing.json` and the table in docs/studio.md. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.cells import Cell, add_engine, compute, read_engine
from experiments.report import format_mean, interval, model, write
from experiments.support import insert
from noiseward.noise.layout import Seeds
from noiseward.optimizers.candidates import draw_movable
from noiseward.optimizers.preference import PreferenceSearch
from noiseward.optimizers.search import turn
from noiseward.pipelines.open import open_sampler
from training.words import caption

NAME, PAGE = "choosing", Path(__file__).parents[1] / "docs" / "studio.md"
CAPTIONS = (("duck", None), ("frog", None), ("house", None))
COUNT, LIKED, WRONG, LOOKS, POOL = 6, 2, 0.1, (5, 10, 15), 720
COSINE = 0.9  # of the fixed angle
HERE = "choosing"
WAYS = {HERE: 0.85, "without discount": 1.0, "a fixed angle around the best": None}
LUCK = "best of four times as many"
BEST = {"best of as many fresh images": 1, LUCK: 4}


def detail(images: Tensor) -> Tensor:
    """How much neighboring pixels differ."""
    across, down = (images.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (3, 2))
    return across + down


def left(images: Tensor) -> Tensor:
    """How much lighter the left half is than the right one."""
    half = images.shape[3] // 2
    return images[..., :half].mean((1, 2, 3)) - images[..., half:].mean((1, 2, 3))


TASTES: dict[str, Callable[[Tensor], Tensor]] = {
    "left": left,
    "contrast": lambda images: images.std((1, 2, 3)),
    "detail": detail,
    "green": lambda images: images[:, 1].mean((1, 2)) - images[:, ::2].mean((1, 2, 3)),
}


def draw(sampler: Any, noise: Tensor, prompt: str) -> Tensor:
    with torch.no_grad():
        return sampler(noise, [prompt] * len(noise))


def rate_pool(prompt: str, count: int) -> dict[str, list[float]]:
    """Every taste's rating of fresh images."""
    sampler, found = open_sampler("stickers", call={"num_inference_steps": 10}), {name: [] for name in TASTES}
    for first in range(0, count, 24):
        images = draw(sampler, sampler.init(24, seed=100_000 + first), prompt)
        for name, taste in TASTES.items():
            found[name] += taste(images).tolist()
    return found


def play(prompt: str, name: str, seed: int, looks: Sequence[int]) -> dict[str, list[float]]:
    """The best rating shown after some numbers of looks, by the way of choosing."""
    sampler, found = open_sampler("stickers", call={"num_inference_steps": 10}), {}
    for way, keep in WAYS.items():
        rng, search = random.Random(seed), PreferenceSearch(sampler.layout, seed)
        search = search if keep is None else dataclasses.replace(search, keep=keep)
        picked: Tensor | None = None
        best, after = -math.inf, []
        for number in range(max(looks)):
            look = search.propose(COUNT, number)
            noise = look.noise
            if keep is None and picked is not None:
                seeds = Seeds((seed,)).at(number)
                fresh = (draw_movable(picked[None], sampler.layout, seeds, 0, f"{i}") for i in range(COUNT))
                noise = torch.stack([turn(picked, xi, math.acos(COSINE), sampler.layout) for xi in fresh])
            ratings = TASTES[name](draw(sampler, noise, prompt)).tolist()
            order = sorted(range(COUNT), key=lambda i: -ratings[i])[:LIKED]
            clicks = [rng.randrange(COUNT) if rng.random() < WRONG else i for i in order]
            if keep is None:
                picked = noise[clicks[0]]
            else:
                search = search.update(look, [1.0 if i in clicks else 0.0 for i in range(COUNT)])
            best = max(best, *ratings)
            if number + 1 in looks:
                after.append(best)
        found[way] = after
    return found


def best_of(values: Sequence[float], n: int) -> float:
    """The expected largest of n of some values, drawn without repetition."""
    ordered, total = sorted(values), len(values)
    weights = [math.comb(k, n - 1) / math.comb(total, n) for k in range(total)]  # of the (k + 1)-th smallest
    return sum(weight * value for weight, value in zip(weights, ordered, strict=True))


def standardize(value: float, pool: Sequence[float]) -> float:
    mean = sum(pool) / len(pool)
    return (value - mean) / math.sqrt(sum((one - mean) ** 2 for one in pool) / len(pool))


def summarize(found: dict[Any, Any], pools: dict[str, Any], looks: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """By way of choosing and number of looks: the rating in standard deviations, with its 95 % interval.

    Differences are of the same prompt, taste and seed.
    """
    rows: dict[str, list[list[float]]] = {}
    for (prompt, taste, _), ways in found.items():
        pool = pools[prompt][taste]
        for at, count in enumerate(looks):
            seen = {way: ratings[at] for way, ratings in ways.items()}
            for name, factor in BEST.items():
                seen[name] = best_of(pool, min(factor * count * COUNT, len(pool)))
            for way, rating in seen.items():
                rows.setdefault(way, [[] for _ in looks])[at].append(standardize(rating, pool))
    for other in (LUCK, "without discount"):
        pairs = zip(rows[HERE], rows[other], strict=True)
        rows[f"{HERE}, less {other}"] = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    return {way: [interval(values) for values in columns] for way, columns in rows.items()}


def lines(table: dict[str, list[dict[str, float]]], looks: Sequence[int]) -> list[str]:
    """The table, in Markdown."""
    text = ["| | " + " | ".join(f"{count} looks" for count in looks) + " |", "|" + "---|" * (len(looks) + 1)]
    for way, columns in sorted(table.items(), key=lambda one: -one[1][-1]["mean"]):
        text.append(f"| {way} | " + " | ".join(format_mean(one) for one in columns) + " |")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one caption, two tastes; no page is written")
    add_engine(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    prompts = [caption(*one) for one in (CAPTIONS[:1] if small else CAPTIONS)]
    tastes, looks, count = (list(TASTES)[:2], (1, 2), 48) if small else (list(TASTES), LOOKS, POOL)
    labels = [(prompt, taste, seed) for prompt in prompts for taste in tastes for seed in range(1 if small else 2)]
    engine, what = read_engine(arguments), {"model": model(), "version": 1}
    pools = compute(
        f"{NAME}-pool",
        {one: Cell({"prompt": one, "count": count, **what}, partial(rate_pool, one, count)) for one in prompts},
        engine=engine,
    )
    cells = {one: Cell({"label": one, "looks": looks, **what}, partial(play, *one, looks)) for one in labels}
    table = summarize(compute(NAME, cells, engine=engine), pools, looks)
    text = lines(table, looks)
    print("\n".join(text))
    if small:
        return
    settings = {
        "prompts": prompts, "tastes": tastes, "seeds": 2, "images per look": COUNT, "liked": LIKED, "wrong": WRONG,
        "pool": POOL, "model": model(),
    }  # fmt: skip
    last = {way: table[way][-1] for way in (*WAYS, *BEST)}
    verdict = f"after {looks[-1]} looks: " + ", ".join(f"{way} {format_mean(one)}" for way, one in last.items())
    write(NAME, settings=settings, results=table, verdict=verdict)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(insert(page, "choosing", "\n".join(["", *text, "", ""])), encoding="utf-8")


if __name__ == "__main__":
    main()
