"""Figure 1 of the paper: Stable Diffusion XL, four rewards and four kinds of prompt, a snapshot every two minutes.

    python -m experiments.sdxl                                    # wants SDXL's weights, the rewards' and a GPU
    python -m experiments.sdxl --model path/to/sdxl --minutes 10 --every 2
    python -m experiments.sdxl --small                            # toy size: SDXL's parts, random weights

Each case starts from one seed, none is picked, and the contact sheet shows the best so far at every mark. The prompts
are of the kinds the figure shows (a dark place, a portrait, an animal, a dish), in our words.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.anytime import anytime
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from noiseward import DiffusersSampler, GradientAscent, Objective, Reward
from noiseward.images import draw_grid, enlarge, to_images
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import parse_rewards
from tests.families import unets

CLAIM = Claim(
    title="SDXL under four rewards (Figure 1)",
    paper="Stable Diffusion XL is aligned with four rewards and four prompts on a single A800 GPU, without fine-tuning "
    "and without picking examples",
    source="caption of Figure 1",
    minutes=45,
    where="one GPU, with the weights of SDXL, the aesthetic predictor and PickScore",
)
PROMPTS = (
    "a narrow alley at night after the rain, street lamps, photograph",
    "portrait of a baseball player, color photograph from the 1970s",
    "a rabbit, wildlife photography",
    "a beef steak with herbs on a wooden board, food photography",
)
REWARDS = ("brightness", "darkness", "aesthetic", "pickscore")
TOY_REWARDS = ("brightness", "darkness", "contrast", "saturation")  # these need no weights
RATE = 0.01


def options(parser: argparse.ArgumentParser) -> None:
    """What to run it on."""
    parser.add_argument("--model", help="what `noiseward align --model` takes; default: sdxl, a toy with --small")
    parser.add_argument("--rewards", nargs=4, help="four, in the order of the prompts")
    parser.add_argument("--minutes", type=float, help="per case")
    parser.add_argument("--every", type=float, help="minutes between snapshots")
    parser.add_argument("--seed", type=int, default=0)


def conduct(request: Request) -> Outcome:
    """Four runs with their snapshots."""
    given = request.given
    toy = given.model is None and request.size != "full"
    minutes = given.minutes or request.pick(10.0, 0.1, 0.01)
    every = given.every or minutes / 5
    marks = [60 * every * k for k in range(1, round(minutes / every) + 1)]
    call: dict[str, Any] = {"num_inference_steps": request.pick(50, 4, 2), "guidance_scale": 5.0, "eta": 1.0}
    texts = given.rewards or (TOY_REWARDS if request.size != "full" else REWARDS)
    pipe = unets.sdxl() if toy else load_pipeline(given.model or "sdxl")
    sampler = DiffusersSampler(pipe, **call, **(dict(height=16, width=16) if toy else {}))
    results: dict[str, Any] = {}
    lines = []
    for text, prompt in zip(texts, PROMPTS, strict=True):
        score = parse_rewards([text])
        found, images = case(sampler, score, prompt, given.seed, marks)
        results[f"{score.name}: {prompt}"] = found
        lines.append([enlarge(image) for image in images])
        print(f"{score.name}, {prompt}: {found['reward']}", flush=True)
    titles = ["start", *(f"{mark:.0f} s" if mark < 60 else f"{mark / 60:.0f} min" for mark in marks)]
    rose = sum(found["reward"][-1] > found["reward"][0] for found in results.values())
    text = "; ".join(
        f"{name.split(':')[0]} {t['reward'][0]:.3f} -> {t['reward'][-1]:.3f}" for name, t in results.items()
    )
    return Outcome(
        verdict=f"{rose} of {len(results)} rewards rose in {minutes:g} minutes: {text}",
        agreement="not comparable" if toy else "agrees" if rose == len(results) else "contradicts",
        settings={"model": "toy" if toy else given.model or "sdxl", "seed": given.seed, "minutes": minutes,
                  "rate": RATE, "call": call, "device": device(sampler)},
        results=results,
        table=[["reward and prompt", *titles],
               *([name, *(f"{r:.3f}" for r in t["reward"])] for name, t in results.items())],
        figure=draw(results, marks),
        images={"contact": draw_grid(lines, titles)},
    )  # fmt: skip


def case(
    sampler: DiffusersSampler, score: Reward, prompt: str, seed: int, marks: list[float]
) -> tuple[dict[str, Any], list[Any]]:
    """One reward and prompt: rewards and P(z) at the start and each mark, and the images."""
    start = sampler.init(1, seed=seed)
    first, bests = anytime(
        Objective(sampler, score, prompt), start, optimizer=GradientAscent(lr=RATE), marks=marks, seeds=[seed]
    )
    found = {
        "reward": [first.evaluation.reward.item(), *(best.reward.item() for best in bests)],
        "probability": [first.probability.item(), *(best.probability.item() for best in bests)],
        "moves": [0, *(int(best.index) for best in bests)],
    }
    return found, [to_images(sample)[0] for sample in (first.evaluation.sample, *(best.sample for best in bests))]


def device(sampler: DiffusersSampler) -> str:
    """What it ran on."""
    where = sampler.layout.device
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def draw(results: dict[str, Any], marks: list[float]) -> Figure:
    """Reward above what it was at the start, each in units of its largest rise."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, found), style in zip(results.items(), ("-", "--", ":", "-."), strict=True):
        rises = [reward - found["reward"][0] for reward in found["reward"]]
        most = max(rises) or 1.0
        label = f"{name.split(':')[0]}: +{max(rises):.3g}"
        axes.plot([0.0, *marks], [rise / most for rise in rises], style, marker="o", color="black", label=label)
    axes.set(xlabel="seconds", ylabel="best so far: share of the whole rise")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main("sdxl", CLAIM, conduct, options=options)
