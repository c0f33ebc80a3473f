"""Reward against fidelity: what each method returns at 1, 3, 10 and 30 times the cost of 10 samples.

Every method starts from the same seeds, makes one run at the largest cost, and is read off on the way: the best of what
it had found by then is what it would have returned. Cost is denoiser calls, a backward counting 2. A first step is made
whatever it costs: that of `auto`, nine samples and their test, costs 1.0 to 1.3 times ten samples. Checks by the image
test count; its fresh samples, which are made once per prompt, and the closing evaluation do not. What is returned is
then judged by tests that no method here can turn off: the strict test, the image test, the image test with 32 fresh
samples that no method has seen, and

* on the built-in model, whether the judge finds the noun, and whether the border has the color that the caption names;
* on another model without prompts (`--model FILE.py:FUNCTION`, which returns a diffusers pipeline), by looking.

Cells are resumable; in full, a day of one core, for 3000 denoiser calls per image are three minutes of the built-in
model. So `--long` names the methods that make the longest run, and the others end a mark before. Rewards, methods and
chunks may be run some at a time: those that were run before with the same settings are kept.
`python -m experiments.frontier --model faces.py:pipeline --rewards greenness left` runs another model. Results are in
`experiments/results/frontier*.json`, tables and plots in docs/how-to-choose.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from experiments import frontier_report
from experiments.built_in import CALL
from experiments.cells import CELLS, Cell, add_engine, compute, hash_key, read_engine
from experiments.gallery.rewards import greenness, left
from experiments.guarded import label_rows
from experiments.judge import right_background, right_noun
from experiments.report import model, write
from noiseward import FunctionReward, ImageTest, Method, Reward, Sampler, steps, stickers
from noiseward.images import draw_grid, to_images
from noiseward.loop.step import Best
from noiseward.methods import read_method
from noiseward.noise.typicality import strict_probability
from noiseward.pipelines.open import open_sampler
from noiseward.rewards.parse import make_reward
from noiseward.runs import RunFolder
from noiseward.runs.resume_point import find_resume_point
from training.words import caption

SAMPLES, MARKS = 10, (1, 3, 10, 30)
OTHER = 3_000_000_000  # the first of the fresh samples that no method has seen
COLORS = ("blue", "black", "red", "white", "green", "yellow", "pink", "gray")
METHODS = (
    "best-of-n:samples=9",
    "ntrk",
    "dno:guard=none",
    "dno:paper",
    "dno",
    "trust-region:samples=9,regions=3",
    "fk",
    "auto",
)
BLIND = ("best-of-n:samples=9", "trust-region:samples=9,regions=3", "fk", "auto")  # for rewards without a gradient
REWARDS = ("brightness", "contrast", "clip", "jpeg")
REVISED = {"auto": "begins again, tests what luck finds"}  # what has changed since cells were first computed


OWN = {"greenness": greenness, "left": left}


def reward_of(name: str) -> Reward:
    """A reward by its name."""
    return FunctionReward(OWN[name], name=name) if name in OWN else make_reward(name)


def chunks(count: int, rows: int) -> list[tuple[tuple[str, str | None], ...]]:
    """Nouns, every second one with a color, in chunks of `rows` captions."""
    nouns = stickers.nouns()
    chosen = [nouns[(3 + 11 * number) % len(nouns)] for number in range(count * rows)]
    pairs = [(noun, COLORS[number // 2 % len(COLORS)] if number % 2 else None) for number, noun in enumerate(chosen)]
    return [tuple(pairs[begin : begin + rows]) for begin in range(0, len(pairs), rows)]


def load(where: str) -> Any:
    """A model: its name, or the pipeline that a function in a file returns."""
    path, colon, function = where.partition(".py:")
    if not colon:
        return where
    spec = importlib.util.spec_from_file_location(Path(path).name, f"{path}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)()


def run(
    where: str,
    call: dict[str, Any],
    reward: str,
    method: str | Method,
    chunk: Sequence[tuple[str, str | None]],
    *,
    batch: int,
    seed: int,
    marks: Sequence[int],
    images: Path,
    work: Path,
) -> list[dict[str, Any]]:
    """One method on some captions: what it would have returned at each mark. Interrupted, it continues from `work`."""
    sampler = open_sampler(load(where), call=call)
    prompts = [caption(*one) for one in chunk] or None
    rows = prompts and [text for text in prompts for _ in range(batch)]
    pairs = [one for one in chunk for _ in range(batch)]
    tests = {"image": ImageTest(sampler), "other": ImageTest(sampler, fresh=32, seed=OTHER)}

    def look(mark: int, best: Best) -> None:
        path = images / f"{mark}"
        path.mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(to_images(best.sample)):
            image.save(path / f"{row:02d}.png")
        content = json.dumps(judge(sampler, tests, best, rows, pairs) | {"mark": mark})
        unfinished = work / f"{mark}.unfinished"
        unfinished.write_text(content)
        unfinished.replace(work / f"{mark}.json")

    def look_where_reached(best: Best, cost: int, last: int) -> None:
        """`last`: the index of the last step that was made."""
        for mark in (0, *marks):
            reached = mark == 0 or (last > 0 and cost > unit * mark)
            if reached and not (work / f"{mark}.json").exists():
                look(mark, best)

    unit, folder, best = SAMPLES * sampler.layout.steps, work / "run", None
    if (folder / "spec.json").exists() and (stood := find_resume_point(RunFolder(folder), torch.device("cpu"))):
        best = stood.place.best
        assert best is not None
        look_where_reached(best, stood.place.nfe.cost, stood.place.index - 1)
    how: dict[str, Any] = {"nfe": unit * marks[-1], "batch": batch, "seed": seed, "method": method}
    for step in steps(sampler, prompts, reward_of(reward), **how, watch=(), out=folder, progress=False):
        best = step.best
        look_where_reached(best, (step.before + step.spent).cost, step.index)
    assert best is not None
    look_where_reached(best, unit * marks[-1] + 1, 1)
    return [json.loads((work / f"{mark}.json").read_text()) for mark in (0, *marks)]


def judge(
    sampler: Sampler, tests: dict[str, ImageTest], best: Best, prompt: Any, pairs: Sequence[tuple[str, str | None]]
) -> dict[str, Any]:
    """What is returned, by all tests."""
    found: dict[str, Any] = {
        "reward": best.reward.tolist(),
        "strict": strict_probability(best.noise, sampler.layout)[0].tolist(),
        **{name: test(best.noise, None, prompt).tolist() for name, test in tests.items()},
    }
    if pairs:
        found["noun"] = right_noun(best.sample, [noun for noun, _ in pairs])
        grounds = right_background(best.sample, [color or "white" for _, color in pairs])
        found["ground"] = [right if color else None for right, (_, color) in zip(grounds, pairs, strict=True)]
    return found


def contact(folder: Path, reward: str, methods: Sequence[str], marks: Sequence[int]) -> Image.Image:
    """What the methods return under a reward at the largest cost of each, a line per method; the start first."""
    lines: list[tuple[str, Image.Image]] = []
    for number, method in enumerate(methods):
        where = folder / "images" / reward / method.replace(":", "-")
        last = max((mark for mark in marks if (where / "0" / str(mark)).exists()), default=marks[-1])
        for mark in (0, last) if number == 0 else (last,):
            tiles = [Image.open(path) for path in sorted(where.glob(f"*/{mark}/*.png"))[:8]]
            lines.append((f"{method}, {mark}x" if mark else "at the start", draw_grid([tiles])))
    return label_rows(lines, scale=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers", help="stickers, or FILE.py:FUNCTION")
    parser.add_argument("--rewards", nargs="+", help="names; also greenness and left")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--chunks", type=int, help="of 8 images each")
    parser.add_argument("--marks", nargs="+", type=int, default=list(MARKS))
    parser.add_argument("--long", nargs="+", help="methods that reach the last mark; default: all")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler")
    parser.add_argument("--small", action="store_true", help="one reward, two methods, one chunk; nothing is written")
    add_engine(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    built_in = given.model == "stickers"
    rewards = given.rewards or (["brightness"] if given.small else list(REWARDS))
    marks = [1] if given.small else given.marks
    batch, seed = (2, 1000) if built_in else (4, 100)
    call = {**(CALL if built_in else {"eta": 1.0}), "num_inference_steps": given.steps}
    parts = chunks(given.chunks or (1 if given.small else 4), 4) if built_in else [()] * (given.chunks or 1)
    name, title = "frontier" if built_in else f"frontier_{Path(given.model).stem}", Path(given.model).name
    cells: dict[tuple[str, str, int], Cell] = {}
    for reward in rewards:
        own = METHODS if reward_of(reward).differentiable else BLIND
        for method in given.methods or (own[:2] if given.small else own):
            until = marks[:-1] if given.long and method not in given.long else marks
            for number, chunk in enumerate(parts):
                key = {"model": title, "version": model() if built_in else "", "call": call, "reward": reward,
                       "method": method, "chunk": chunk, "number": number, "batch": batch, "marks": until}  # fmt: skip
                key |= {"revision": REVISED[method]} if method in REVISED else {}
                folder = CELLS / name / "images" / reward / method.replace(":", "-") / str(number)
                work = CELLS / name / "runs" / hash_key(key)
                cells[reward, method, number] = Cell(key, partial(
                    run, given.model, call, reward, method, chunk,
                    batch=batch, seed=seed + batch * number * (not built_in), marks=until, images=folder, work=work,
                ))  # fmt: skip
    found: dict[str, dict[str, list[Any]]] = {}
    for (reward, method, _), looks in compute(name, cells, engine=read_engine(given)).items():
        found.setdefault(reward, {}).setdefault(method, []).append(looks)
    print("\n".join(frontier_report.lines(found, marks)))
    if given.small:
        return
    settings: dict[str, Any] = {"model": title, "call": call, "samples": SAMPLES, "marks": marks, "batch": batch,
                                "seed": seed, "version": model() if built_in else "", "revised": REVISED}  # fmt: skip
    results = frontier_report.merge(frontier_report.stored(name, settings), found)
    count = max(len(looks) for by in results.values() for looks in by.values())
    settings["captions"] = [caption(*one) for chunk in chunks(count, 4) for one in chunk] if built_in else []
    images: dict[str, Image.Image] = {}
    for reward, by in found.items():
        some = "" if by.keys() == results[reward].keys() else "".join(f"_{read_method(method).name}" for method in by)
        images[reward + some] = contact(CELLS / name, reward, tuple(by), marks)
    write(name, settings=settings, results=results, verdict=frontier_report.verdict(results, marks))
    frontier_report.publish(name, results, marks, images)


if __name__ == "__main__":
    main()
