"""The benchmark of the paper in miniature: rewards after no optimization, best-of-N, DNO, and both, at equal time.

The built-in model, 8 nouns with 4 seeds each, rewards clip (where it is installed), brightness and contrast. Each
method makes one run per noun, which is read off at 1, 3 and 5 times a unit of time per image. On a processor time is
the process's own, so that what else the machine does does not count. Reported next to the reward: what was not
optimized, the other rewards, and the held-out judge's verdict.

The paper's own form, Stable Diffusion 1.5 on 45 animals, with the weights of model and rewards and a GPU:

    python -m experiments.table1 --model sd15 --rewards aesthetic hpsv2 pickscore --prompts animals --seeds 1 \\
        --unit 60 --steps 50 --guidance 5
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments import built_in
from experiments.anytime import anytime
from experiments.cells import Cell
from experiments.claim import Agreement, Claim, Outcome
from experiments.frame import Request, main
from experiments.judge import judge_nouns
from experiments.report import format_mean, interval
from noiseward import BestOfN, DiffusersSampler, GradientAscent, Objective, Optimizer, Relay, Reward, stickers
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import parse_rewards
from training.words import article

CLAIM = Claim(
    title="Rewards at equal time (Table 1, in miniature)",
    paper="DNO achieves state-of-the-art reward scores within a reasonable time budget for generation",
    source="abstract; models, rewards and baselines of its table are not these",
    minutes=100,
)
TIMES = (1, 3, 5)
STYLES = (("0.4", "--", "s"), ("C1", "-", "o"), ("0", ":", "^"))
RATE = 0.01
ANIMALS = """cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox wolf lizard
beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle frog chicken duck goose bee pig turkey fly
llama camel bat gorilla hedgehog kangaroo""".split()
BOTH = "best of 16, then DNO"
METHODS: dict[str, Optimizer] = {
    "best-of-N": BestOfN(4),
    "DNO": GradientAscent(lr=RATE),
    BOTH: Relay(BestOfN(16), GradientAscent(lr=RATE)),
}


def options(parser: argparse.ArgumentParser) -> None:
    """What to run it on."""
    parser.add_argument("--model", default="stickers", help="stickers, or what `noiseward align --model` takes")
    parser.add_argument("--rewards", nargs="+", help="names, with their arguments")
    parser.add_argument("--prompts", choices=("nouns", "animals"), default="nouns")
    parser.add_argument("--seeds", type=int, help="images per prompt")
    parser.add_argument("--unit", type=float, help="seconds per image that count as 1x")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--size", dest="side", type=int, help="height and width of images; default: the model's")


def conduct(request: Request) -> Outcome:
    """Every reward, prompt and method."""
    given = request.given
    nouns = request.pick(8, 2, 1)
    prompts = [f"{article(a)} {a}" for a in ANIMALS] if given.prompts == "animals" else built_in.pairs(nouns, 1)[0]
    prompts = prompts[: request.pick(None, 2, 1)]
    seeds = [1000 + seed for seed in range(given.seeds or request.pick(4, 2, 1))]
    unit = given.unit or request.pick(4.0, 1.0, 0.05)
    texts = given.rewards or request.pick(
        ["clip", "brightness", "contrast"], ["brightness", "contrast"], ["brightness"]
    )
    texts = [text for text in texts if built_in.is_installed(text) or given.model != "stickers"]
    call: dict[str, Any] = {"num_inference_steps": given.steps, "guidance_scale": given.guidance, "eta": 1.0}
    if request.size == "smoke":
        call["num_inference_steps"] = 2
    if given.side:
        call |= {"height": given.side, "width": given.side}
    scores = [parse_rewards([text]) for text in texts]
    samplers: list[DiffusersSampler] = []  # loaded when the first cell needs it
    work = [(score, method, prompt) for score in scores for method in METHODS for prompt in prompts]
    cells: dict[tuple[str, str, str], Cell] = {}
    for score, method, prompt in work:

        def compute(score: Reward = score, method: str = method, prompt: str = prompt) -> dict[str, Any]:
            if not samplers:
                path = stickers.path() if given.model == "stickers" else given.model
                samplers.append(DiffusersSampler(load_pipeline(path), **call))
            return run(samplers[0], score, METHODS[method], prompt, seeds, unit, [s for s in scores if s is not score])

        key = {"model": given.model, "version": built_in.version(), "rewards": texts, "reward": score.name,
               "call": call, "method": method, "prompt": prompt, "seeds": seeds, "unit": unit,
               "rate": RATE}  # fmt: skip
        cells[score.name, method, prompt] = Cell(key, compute)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (reward, method, _), one in request.cells(cells).items():
        results.setdefault(reward, {}).setdefault(method, []).append(one)
    means = {reward: {method: summary(some) for method, some in by.items()} for reward, by in results.items()}
    settings = {
        "model": given.model, "prompts": prompts, "seeds": f"{seeds[0]} to {seeds[-1]}", "unit_seconds": unit,
        "times": TIMES, "rate": RATE, "best_of_n_samples_per_step": 4, "noises_first": 16, "call": call,
    }  # fmt: skip
    return Outcome(
        verdict=verdict(means),
        agreement=agreement(means),
        settings=settings,
        results=means,
        table=table(means),
        figure=draw(means, unit),
    )


def run(
    sampler: DiffusersSampler, score: Reward, optimizer: Optimizer, prompt: str, seeds: Sequence[int], unit: float,
    others: Sequence[Reward],
) -> dict[str, Any]:  # fmt: skip
    """One prompt with all its seeds: start and bests, each as lists of one number per row."""
    objective = Objective(sampler, score, prompt)
    start = sampler.init(len(seeds), seed=seeds)
    marks = [times * unit * len(seeds) for times in TIMES]
    first, bests = anytime(objective, start, optimizer=optimizer, marks=marks, seeds=seeds)
    samples = [first.evaluation.sample, *(best.sample for best in bests)]
    noun = prompt.split()[1]
    nouns = [judge_nouns(sample, [noun] * len(seeds)) if noun in stickers.nouns() else None for sample in samples]
    asked = [prompt] * len(seeds)
    with torch.no_grad():
        held = {other.name: [other(sample, asked).tolist() for sample in samples] for other in others}
    return {
        "reward": [first.evaluation.reward.tolist(), *(best.reward.tolist() for best in bests)],
        "probability": [first.probability.tolist(), *(best.probability.tolist() for best in bests)],
        "noun": nouns if all(nouns) else None,
        "held": held,
    }


def summary(some: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over images: at the start, and at each time; gains with their own intervals."""

    def at(part: str, place: int) -> list[float]:
        return [value for one in some for value in one[part][place]]

    places = range(1 + len(TIMES))
    means: dict[str, Any] = {
        part: [interval(at(part, place)) for place in places]
        for part in ("reward", "probability", "noun") if some[0][part] is not None
    }  # fmt: skip
    means["raw"] = [at("reward", place) for place in places]
    means["held"] = {
        name: [interval([value for one in some for value in one["held"][name][place]]) for place in places]
        for name in some[0]["held"]
    }
    return means


def lead(by: dict[str, Any], place: int, of: str = "best-of-N", method: str = "DNO") -> dict[str, float]:
    """How much more a method has than another, image by image."""
    pairs = zip(by[of]["raw"][place], by[method]["raw"][place], strict=True)
    return interval([b - a for a, b in pairs])


def verdict(means: dict[str, Any]) -> str:
    """Who is ahead at each time."""
    sentences = []
    for reward, by in means.items():
        pairs = [("DNO", "best-of-N"), (BOTH, "best-of-N"), (BOTH, "DNO")]
        gaps = [", ".join(format_mean(lead(by, place, of, method), 3) for place in range(1, len(TIMES) + 1))
                for method, of in pairs]  # fmt: skip
        start, end = (format_mean(by["DNO"]["reward"][place], 3) for place in (0, -1))
        ways = "; ".join(
            f"{'the two together' if method == BOTH else method} ahead of {of} by {gap}"
            for (method, of), gap in zip(pairs, gaps, strict=True)
        )
        sentences.append(f"{reward} is {start} at first and {end} after DNO; {ways}")
    times = ", ".join(f"{times}x" for times in TIMES)
    return f"at {times} the time (the two together: {BOTH}): " + ". ".join(sentences)


def agreement(means: dict[str, Any]) -> Agreement:
    """Whether DNO is ahead of best-of-N at the longest time, beyond the interval."""
    wins = []
    for by in means.values():
        gap = lead(by, len(TIMES))
        wins.append(gap["mean"] - (gap["half"] or 0) > 0)
    return "agrees" if all(wins) else "agrees in part" if any(wins) else "contradicts"


def table(means: dict[str, Any]) -> list[list[str]]:
    """Rewards, judge and P(z) of every column."""
    names = sorted({name for by in means.values() for one in by.values() for name in one["held"]})
    lines = [
        [
            "reward optimized",
            "method",
            "reward",
            "noun right, %",
            "P(z)",
            *(f"{name} (not optimized)" for name in names),
        ]
    ]
    for reward, by in means.items():
        columns = [("no optimization", "DNO", 0)]
        columns += [(f"{m}, {times}x", m, place) for m in METHODS for place, times in enumerate(TIMES, 1)]
        for title, method, place in columns:
            one = by[method]
            right = format_mean(one["noun"][place], 0, 100) if "noun" in one else ""
            held = [format_mean(one["held"][name][place], 3) if name in one["held"] else "" for name in names]
            lines.append(
                [
                    reward,
                    title,
                    format_mean(one["reward"][place], 3),
                    right,
                    format_mean(one["probability"][place], 2),
                    *held,
                ]
            )
    return lines


def draw(means: dict[str, Any], unit: float) -> Figure:
    """Reward, and below it what the judge sees, against time per image."""
    figure = Figure(figsize=(4.2 * len(means), 6.4), layout="constrained")
    panels = figure.subplots(2, len(means), squeeze=False)
    seconds = [0.0, *(unit * times for times in TIMES)]
    for (reward, by), above, below in zip(means.items(), panels[0], panels[1], strict=True):
        for (method, one), style in zip(by.items(), STYLES, strict=True):
            color, dash, mark = style
            for axes, part, scale in ((above, "reward", 1), (below, "noun", 100)):
                if part in one:
                    mean, half = ([scale * place[k] for place in one[part]] for k in ("mean", "half"))
                    axes.errorbar(
                        seconds, mean, half, color=color, linestyle=dash, marker=mark, capsize=3, label=method
                    )
        above.set(xlabel="seconds per image", ylabel=f"{reward} (95 % interval)", title=f"optimized: {reward}")
        below.set(xlabel="seconds per image", ylabel="noun right, % (held-out judge)")
        for axes in (above, below):
            axes.grid(alpha=0.3)
        above.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main("table1", CLAIM, conduct, options=options)
