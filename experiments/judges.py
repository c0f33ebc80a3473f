"""Three runs with rewards of other kinds: a chat judge, a requirement, and text, for docs/rewards.md.

    python -m experiments.judges          needs the extras chat and ocr, and onnx2torch; some minutes
    python -m experiments.judges --small  a few steps, and images are left alone
    python -m experiments.judges --nouns  only which first images the judge likes least; some minutes

The chat judge is the built-in one behind a server that speaks the protocol (`chat_model.py`): the run is that of any
other model, its judgment is not. Everything runs with seed 0. The ghost is the noun whose first image the judge likes
least (`--nouns`); the elephant, tried before, is one of which it was already sure. Letters were chosen after trying a
few.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from experiments.chat_model import serve_judge
from experiments.report import write
from experiments.showcase import stack
from noiseward import Solution, align, stickers
from noiseward.images import draw_grid, enlarge
from noiseward.rewards.parse import make_reward
from training.words import caption

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "judges.png"
LINE = 18  # pixels of a title
FEWER = {"num_inference_steps": 10}
CHATS = (
    ("a ghost", "chat", "answer=yes"),
    ("a ghost", "chat-pair", "answer=letter"),
    ("an elephant", "chat", "answer=yes"),
)
LETTERS = (("a snowman", "8"), ("a snail", "e"), ("a moon", "C"), ("a carrot", "I"))


def chat(steps: int) -> tuple[dict[str, Any], list[tuple[str, Image.Image]]]:
    """A yes-or-no judge and one that compares, behind a server; clip is watched."""
    results, strips = {}, []
    for prompt, name, own in CHATS:
        with serve_judge() as (url, count):
            text = f"{name}:model=judge,base_url={url},{own},cache=none,price_in=0.15,price_out=0.6"
            solution = align(
                "stickers", prompt, text, method="trust-region:samples=5", steps=steps, watch=["clip"], **FEWER
            )
            results[f"{prompt}, {name}"] = {**summarize(solution, "clip", prompt), "calls": count[0]}
        strips.append((f"{prompt}: {name}", solution.strip()))
    return results, strips


def find_least_liked(count: int = 5) -> list[tuple[str, float]]:
    """The nouns whose first image has the least of the judge, and how much."""
    judge, liked = make_reward("stickers-judge"), []
    for noun in stickers.nouns():
        prompt = caption(noun)
        start = align("stickers", prompt, "brightness", steps=0, method="dno", watch=(), progress=False, **FEWER)
        liked.append((prompt, judge(start.sample, [prompt]).item()))
    return sorted(liked, key=lambda one: one[1])[:count]


def required(steps: int) -> tuple[dict[str, Any], list[tuple[str, Image.Image]]]:
    """Darkness without a guard, alone and with a fit to the prompt to keep; the judge is held out."""
    results, strips, prompt = {}, [], "a lemon"
    for require in ((), ("clip>=0.4",)):
        solution = align(
            "stickers",
            prompt,
            "darkness",
            method="dno:lr=0.3,guard=none",
            require=require,
            steps=steps,
            watch=["clip"],
            **FEWER,
        )
        name = " and ".join(["darkness", *require])
        results[name] = {**summarize(solution, "stickers-judge", prompt), "clip": score("clip", solution, prompt)}
        results[name]["shortfall"] = solution.shortfall
        strips.append((f"{prompt}: {name}", solution.strip()))
    return results, strips


def letters(steps: int) -> tuple[dict[str, Any], list[tuple[str, Image.Image]]]:
    """Stickers that a recognizer reads as a letter; and what a reader that first looks for text makes of them."""
    results, tiles = {}, []
    for prompt, text in LETTERS:
        solution = align("stickers", prompt, f"ocr-line:text={text}", steps=steps, watch=(), **FEWER)
        line, reader = make_reward(f"ocr-line:text={text}"), make_reward(f"ocr:text={text}")
        results[f"{prompt}, {text}"] = {
            **summarize(solution, "stickers-judge", prompt),
            "read": [line.read(sample)[0] for sample in (solution.initial.sample, solution.sample)],
            "found": [reader.read(sample)[0] for sample in (solution.initial.sample, solution.sample)],
            "image": solution.image_probability[0],
        }
        tiles.append([enlarge(solution.initial_images[0]), enlarge(solution.images[0])])
    across = [[tile for pair in tiles for tile in pair]]
    titles = [title for prompt, text in LETTERS for title in (prompt, f"for {text}")]
    return results, [("text: the start, and the best for a letter", draw_grid(across, titles))]


def score(name: str, solution: Solution, prompt: str) -> list[float]:
    """A reward of the start and of the best."""
    reward = make_reward(name)
    with torch.no_grad():
        return [reward(sample, [prompt]).item() for sample in (solution.initial.sample, solution.sample)]


def summarize(solution: Solution, held_out: str, prompt: str) -> dict[str, Any]:
    """Numbers of a run, at its start and its best."""
    return {
        "reward": [solution.initial.reward.item(), solution.reward.item()],
        held_out: score(held_out, solution, prompt),
        "step": solution.index.item(),
        "seconds": solution.seconds,
    }


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="2 steps, and the image of the docs is left alone")
    parser.add_argument("--nouns", action="store_true", help="only print the nouns the judge likes least")
    arguments = parser.parse_args()
    small = arguments.small
    torch.set_num_threads(1)
    if arguments.nouns:
        print("; ".join(f"{prompt} {value:.3f}" for prompt, value in find_least_liked()))
        return
    results, strips = {}, []
    for part, steps in ((chat, 7), (required, 15), (letters, 20)):
        found, shown = part(2 if small else steps)
        results[part.__name__], strips = found, strips + shown
    picture = draw(strips)
    if not small:
        picture.save(PICTURE)
    write("judges", settings={"seed": 0, "small": small}, results=results, verdict="; ".join(describe(results)))


def draw(strips: list[tuple[str, Image.Image]]) -> Image.Image:
    """Strips above each other, each below its title."""
    titled = []
    for title, strip in strips:
        canvas = Image.new("RGB", (strip.width, strip.height + LINE), "white")
        ImageDraw.Draw(canvas).text((2, 3), title, fill="black")
        canvas.paste(strip, (0, LINE))
        titled.append(canvas)
    return stack(titled)


def describe(results: dict[str, Any]) -> list[str]:
    """A line per run."""
    return [
        f"{name} {run['reward'][0]:.3g} -> {run['reward'][1]:.3g}"
        for runs in results.values()
        for name, run in runs.items()
    ]


if __name__ == "__main__":
    main()
