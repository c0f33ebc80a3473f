"""Few steps first: how much sooner is the reward of plain ascent on 50 sampler steps reached, and what does it cost?

Plain: DNO on 50 steps, 100 moves. Against it: the same ascent on 5 or 10 steps first, carried over (`nested.py`), then
on 50; and with the cheap gradient, which passes the sampler's linear part alone. For each caption and seed the time and
the denoiser calls are taken at which the plain run's best reward is reached; the judge, who is climbed by nobody, says
of both results whether the noun is right.

    python -m experiments.few_steps [--small] [--part 0/2]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from experiments.cells import CELLS, cell, mine
from experiments.judge import right_noun
from experiments.report import interval, model, write
from noiseward import align, stickers

CAPTIONS = ("a duck", "a rabbit", "a heart", "a cat")
MANY, MOVES = 50, 100
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "10 steps first": {"coarse": 10},
    "5 steps first": {"coarse": 5},
    "5 steps first, linear gradient": {"coarse": 5, "estimator": "backprop:through=linear"},
}


def made(captions: Sequence[str], seeds: int, how: dict[str, Any], many: int, moves: int) -> list[dict[str, Any]]:
    """A method's runs, all in one batch, whose rows do not know of each other: cost, seconds and best reward along the
    way, and the judge's word before and after, for each."""
    solution = align(
        "stickers", list(captions), "brightness", steps=moves, batch=seeds, seed=200, watch=(), progress=False,
        num_inference_steps=many, eta=1.0, **how,
    )  # fmt: skip
    nouns = [caption.removeprefix("a ") for caption in captions for _ in range(seeds)]
    known = stickers.path("judge").exists()
    before, after = (
        right_noun(sample, nouns) if known else [None] * len(nouns)
        for sample in (solution.initial.sample, solution.sample)
    )
    runs = []
    for row in range(len(nouns)):
        best, curve = float("-inf"), []
        for record in solution.history:
            best, nfe = max(best, record["reward"][row]), record["nfe"]
            calls = nfe["forward"] + 2 * nfe["backward"] + nfe["recomputed"]
            curve.append((calls, record["seconds"], best))
        strict = solution.strict_probability[row]
        runs.append({"curve": curve, "before": before[row], "after": after[row], "strict": strict})
    return runs


def sooner(plain: dict[str, Any], other: dict[str, Any], which: int) -> float:
    """How many times sooner the other run reaches the plain one's reward, in calls (0) or seconds (1); 0 for never."""
    wanted = plain["curve"][-1][2]
    spent = next(at[which] for at in plain["curve"] if at[2] >= wanted)
    reached = next((at[which] for at in other["curve"] if at[2] >= wanted), None)
    return spent / reached if reached else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one caption, one seed, 10 steps, 4 moves")
    parser.add_argument("--part", help="i/n: make the i-th of n shares of the runs, and write no results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    captions, seeds, many, moves = (CAPTIONS[:1], 1, 10, 4) if small else (CAPTIONS, 2, MANY, MOVES)
    runs: dict[str, list[dict[str, Any]]] = {}
    for number, (name, how) in enumerate(METHODS.items()):
        if not mine(number, arguments.part):
            continue
        key: dict[str, Any] = dict(captions=captions, seeds=seeds, how=how, many=many, moves=moves)
        runs[name] = cell("few_steps", {**key, "model": model()}, lambda key=key: made(**key))
        print(f"{number + 1}/{len(METHODS)} {name}", flush=True)
    if arguments.part:
        return
    results: dict[str, Any] = {}
    for name, done in runs.items():
        pairs = list(zip(runs["plain"], done, strict=True))
        known = [run["after"] for run in done if run["after"] is not None]
        results[name] = {
            "sooner in calls": interval([sooner(plain, run, 0) for plain, run in pairs]),
            "sooner in seconds": interval([sooner(plain, run, 1) for plain, run in pairs]),
            "reached": sum(sooner(plain, run, 0) > 0 for plain, run in pairs) / len(pairs),
            "gain": interval([run["curve"][-1][2] - run["curve"][0][2] for run in done]),
            "right noun": interval(known) if known else None,
            "strict": interval([run["strict"] for run in done]),
        }
    settings = {"captions": captions, "seeds": seeds, "steps": many, "moves": moves, "small": small}
    verdict = "; ".join(
        f"{name}: reached in {one['reached']:.0%} of runs, {one['sooner in calls']['mean']:.2g} times sooner in calls"
        for name, one in results.items() if name != "plain"
    )  # fmt: skip
    where = {"out": CELLS} if small else {}
    write("few_steps", settings=settings, results=results, verdict=verdict, **where)


if __name__ == "__main__":
    main()
