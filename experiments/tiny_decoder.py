"""What a smaller decoder for gradients costs in direction and in reward, on the built-in model.

*Bias*: an exact run; every few steps the gradient through each decoder is compared with the exact one, row by row.
*Worth*: runs of equal length through each decoder, from the same noise. Rewards come from the model's own decoder
throughout.

    python -m experiments.tiny_decoder [--decoders half tiny PATH] [--small] [--part 0/2]

A decoder is `half`, `tiny`, or the folder of an `AutoencoderTiny` for the model's latents. Writes a table to
docs/my-card.md.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import built_in
from experiments.cells import CELLS, Cell, add_engine, compute, read_engine
from experiments.report import format_mean, interval, write
from experiments.support import insert
from noiseward import Backprop, Budget, GradientAscent, Objective, Seeds, iterate

NAME = "tiny_decoder"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "my-card.md"
OWN = "own"
REWARDS = ("brightness", "contrast", "clip")


def objective(reward: str, decoder: str, shape: dict[str, int]) -> tuple[Objective, list[int]]:
    """A reward of the model's samples, with gradients through a decoder; and the seeds of the rows."""
    prompts, seeds = built_in.pairs(shape["prompts"], shape["seeds"])
    call: dict[str, Any] = {"num_inference_steps": shape["num_inference_steps"]}
    if decoder != OWN:
        call["decoder"] = decoder
    return built_in.objective(reward, prompts, **call), seeds


def bias(reward: str, decoders: list[str], shape: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """For each decoder and each step looked at, the cosine of every row."""
    exact, seeds = objective(reward, OWN, shape)
    others = {decoder: objective(reward, decoder, shape)[0] for decoder in decoders}
    found: dict[str, dict[str, list[float]]] = {decoder: {} for decoder in decoders}
    start, every = exact.sampler.init(len(seeds), seed=seeds), max(shape["moves"] // 6, 1)
    for step in iterate(exact, start, optimizer=GradientAscent(), budget=Budget(steps=shape["moves"])):
        if step.index % every or step.next_noise is None:
            continue
        places = Seeds(tuple(range(len(step.noise))), step=step.index)
        _, right = Backprop()(exact, step.noise, places)
        for decoder, other in others.items():
            _, direction = Backprop()(other, step.noise, places)
            cosines = torch.cosine_similarity(direction.flatten(1), right.flatten(1))
            found[decoder][str(step.index)] = cosines.tolist()
    return found


def run(reward: str, decoder: str, shape: dict[str, int]) -> dict[str, Any]:
    """How far every row rises, and the processor seconds of a step."""
    how, seeds = objective(reward, decoder, shape)
    start = how.sampler.init(len(seeds), seed=seeds)
    steps = iterate(
        how, start, optimizer=GradientAscent(), budget=Budget(steps=shape["moves"]), clock=time.process_time
    )
    first, *rest = steps
    risen = (rest[-1].best.reward - first.evaluation.reward).tolist()
    return {"gain": risen, "seconds": (rest[-1].seconds - first.seconds) / len(rest)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoders", nargs="+", default=["half", "tiny"], help="half, tiny, or folders")
    parser.add_argument("--small", action="store_true", help="one reward, 2 rows, 4 sampler steps, 4 steps")
    add_engine(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"num_inference_steps": 10, "moves": 30, "prompts": 4, "seeds": 2}
    if given.small:
        shape = {"num_inference_steps": 4, "moves": 4, "prompts": 2, "seeds": 1}
    rewards = [name for name in (REWARDS[:1] if given.small else REWARDS) if built_in.is_installed(name)]
    decoders = [str(Path(name).resolve()) if Path(name).exists() else name for name in given.decoders]
    keys = {reward: {"reward": reward, "shape": shape, "model": built_in.version()} for reward in rewards}
    solve = partial(compute, NAME, engine=read_engine(given))
    cosines = solve({
        reward: Cell({**key, "decoders": decoders}, partial(bias, reward, decoders, shape))
        for reward, key in keys.items()
    })  # fmt: skip
    courses = solve({
        (reward, decoder): Cell({**key, "decoder": decoder}, partial(run, reward, decoder, shape))
        for reward, key in keys.items() for decoder in (OWN, *decoders)
    })  # fmt: skip
    results = {
        reward: {
            "cosine": {
                each: {step: interval(rows) for step, rows in by.items()} for each, by in cosines[reward].items()
            },
            "gain": {each: interval(courses[reward, each]["gain"]) for each in (OWN, *decoders)},
            "seconds": {each: courses[reward, each]["seconds"] for each in (OWN, *decoders)},
        }
        for reward in rewards
    }
    where: dict[str, Any] = {"out": CELLS / NAME} if given.small else {}
    settings = {**shape, "decoders": decoders, "rewards": rewards, "threads": 1, "small": given.small}
    write(NAME, settings=settings, results=results, verdict=verdict(results), **where)
    if not given.small:
        PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), "decoders", table(results)), encoding="utf-8")


def table(results: dict[str, Any]) -> str:
    """The table of the page."""
    lines = [
        "| reward | decoder | cosine to the exact gradient, first and last | gain | gain with the exact gradient |",
        "| --- " * 5 + "|",
    ]
    for reward, each in results.items():
        for decoder, by in each["cosine"].items():
            cosines = ", ".join(format_mean(list(by.values())[k], 2) for k in (0, -1))
            gains = " | ".join(format_mean(each["gain"][name], 3) for name in (decoder, OWN))
            lines.append(f"| {reward} | `{Path(decoder).name}` | {cosines} | {gains} |")
    return "\n".join(lines)


def verdict(results: dict[str, Any]) -> str:
    """Per reward: the cosine at the first and the last step looked at, and the gains of runs of equal length."""
    lines = []
    for reward, each in results.items():
        for decoder, by in each["cosine"].items():
            first, last = (format_mean(list(by.values())[k], 2) for k in (0, -1))
            own, other = (format_mean(each["gain"][name], 3) for name in (OWN, decoder))
            lines.append(f"{reward} through {Path(decoder).name}: cosine {first} to {last}, gain {other}, exact {own}")
    return "; ".join(lines)


if __name__ == "__main__":
    main()
