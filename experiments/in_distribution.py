"""What keeps an optimized picture in the model's distribution? Guards side by side, judged by a held-out model.

The built-in model, 10 sampler steps at eta 1, Adam with a rate five times the default, so that there is something to
guard against. Rewards brightness and darkness; captions that contradict them ("a duck on a black background" made
bright) and neutral ones ("a duck"). Every method gets the same captions, seeds and number of moves. Watched at every
fifth move: the reward, P(z), the strict P(z), and the judge's verdict on noun and background, neither of which is ever
climbed.

32 pairs of caption and seed screen all methods; the three finalists get 160.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import in_distribution_report as report
from experiments.cells import CELLS, cell, mine
from experiments.judge import right_background, right_noun
from noiseward import GradientAscent, Step, stickers, strict_probability
from noiseward.align import default_budget, prepare, projections
from noiseward.pictures import grid, images
from noiseward.solution import collect
from training.words import caption

NAME = "in_distribution"
MOVES, WATCH, ROWS, RATE = 25, 5, 8, 0.05
GROUPS = {  # reward, background named in the caption
    "brightness, neutral": ("brightness", None),
    "brightness, contradicted": ("brightness", "black"),
    "darkness, neutral": ("darkness", None),
    "darkness, contradicted": ("darkness", "white"),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """What is done to keep noise plausible."""

    regularizer: str | None = None
    project: tuple[str, ...] = ()
    rate: float = RATE
    eta: float = 1.0


METHODS = {
    "none": Method(),
    "concentration:1.0": Method("concentration:1.0"),
    "concentration:target=0.1": Method("concentration:target=0.1"),
    "shell:0.01": Method("shell:0.01"),
    "norm projection": Method(project=("norm",)),
    "spectral projection": Method(project=("spectral",)),
    "first draw only": Method(eta=0.0),
    "default rate": Method(rate=0.01),
    "first draw only, norm projection": Method(project=("norm",), eta=0.0),
    "spectral projection, target=0.1": Method("concentration:target=0.1", ("spectral",)),
}


def pairs(chunk: int) -> list[tuple[str, int]]:
    """Noun and seed of each row of a chunk; the same for every method and group."""
    nouns = stickers.nouns()
    return [(nouns[(chunk * ROWS + row) * 7 % len(nouns)], 1000 + chunk * ROWS + row) for row in range(ROWS)]


def watch(step: Step, layout: Any, nouns: list[str], color: str | None) -> dict[str, Any]:
    """What is looked at along the way; one number per row each."""
    sample = step.evaluation.sample
    return {
        "index": step.index,
        "reward": step.evaluation.reward.tolist(),
        "probability": step.probability.tolist(),
        "strict": strict_probability(step.noise, layout)[0].tolist(),
        "noun": right_noun(sample, nouns),
        "background": right_background(sample, [color] * len(nouns)) if color else None,
    }


def climb(method: str, group: str, chunk: int, moves: int) -> dict[str, Any]:
    """One method on one chunk of one group."""
    reward, color = GROUPS[group]
    how, rows = METHODS[method], pairs(chunk)
    nouns = [noun for noun, _ in rows]
    problem = prepare(
        "stickers",
        [caption(noun, color) for noun in nouns],
        reward,
        optimizer=GradientAscent(lr=how.rate, project=projections(how.project)),
        budget=default_budget(steps=moves),
        regularizer=how.regularizer,
        call={"num_inference_steps": 10, "eta": how.eta},
    )
    sampler = problem.objective.sampler
    problem = dataclasses.replace(problem, noise=sampler.init(ROWS, seed=[seed for _, seed in rows]))
    along: list[dict[str, Any]] = []

    def watched():
        for step in problem.iterate():
            if step.index % WATCH == 0 or step.moved is None:
                along.append(watch(step, sampler.layout, nouns, color))
            yield step

    solution = collect(watched(), problem.objective)
    folder = CELLS / NAME / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    picture = grid([images(solution.initial.sample), images(solution.sample)])
    picture.save(folder / f"{method}-{group}-{chunk}-{moves}.png".replace(" ", "_").replace(":", "_"))
    best = {
        "reward": solution.reward.tolist(),
        "probability": solution.probability,
        "strict": solution.strict_probability,
        "noun": right_noun(solution.sample, nouns),
        "background": right_background(solution.sample, [color] * ROWS) if color else None,
    }
    return {"along": along, "best": best, "seconds": solution.seconds, "nfe": solution.nfe.cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="three methods, one chunk of two groups, 5 moves")
    parser.add_argument("--part", help="i/n: only compute this share of the cells")
    parser.add_argument("--finalists", nargs="*", default=[], help="methods that get 160 pairs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods, groups, moves = list(METHODS), list(GROUPS), MOVES
    if arguments.small:
        methods, groups, moves = ["none", "norm projection", "concentration:target=0.1"], groups[:2], 5
    work = [(method, group, 0) for group in groups for method in methods]
    work += [(method, group, chunk) for chunk in range(1, 5) for group in groups for method in arguments.finalists]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, (method, group, chunk) in enumerate(work):
        if not mine(number, arguments.part):
            continue
        key = {"method": dataclasses.asdict(METHODS[method]), "group": group, "chunk": chunk, "moves": moves,
               "model": report.model()}  # fmt: skip
        done = cell(NAME, key, partial(climb, method, group, chunk, moves))
        results.setdefault(method, {}).setdefault(group, []).append(done)
        print(f"{number + 1}/{len(work)} {method}; {group}; {done['seconds']:.0f} s", flush=True)
    if arguments.part is None:
        settings = {"moves": moves, "rate": RATE, "num_inference_steps": 10, "eta": 1.0, "rows": ROWS,
                    "finalists": arguments.finalists, "small": arguments.small, "model": report.model()}  # fmt: skip
        report.publish(NAME, settings, results, Path(CELLS / NAME / "pictures"))


if __name__ == "__main__":
    main()
