"""Which methods earn a place: candidates next to `auto` and the best of N, at equal denoiser cost and with equal tests.

As `frontier.py`: each makes one run at the largest cost and is read off at 3, 10 and 30 times the cost of 10 samples;
a backward counts 2, checks by the image test count. All have the same guard but `best-of-n`, which needs none. Those
that the library does not have are in `tried.py`. Cells are resumable; results are in `results/methods.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import frontier
from experiments.built_in import CALL
from experiments.cells import CELLS, Cell, add_engine, compute, hash_key, read_engine
from experiments.frontier_report import failing, gain, pool, share
from experiments.report import format_mean, interval, model, write
from experiments.tried import (
    Explore,
    FourierAscent,
    GradientRegion,
    PrunedBestOfN,
    Rounds,
    Smoothed,
    TurnedFK,
    WhitenedAscent,
    steady,
)
from noiseward import Backprop, BestOfN, Method, Optimizer, Plausible, Relay, SpectralProjection, Steady
from noiseward.methods import read_method
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.langevin import Langevin
from noiseward.optimizers.search import TrustRegion
from noiseward.optimizers.tilting import Tilting

MARKS = (3, 10, 30)
REWARDS = ("brightness", "contrast", "clip", "jpeg")
LIBRARY = ("best-of-n:samples=9", "auto", "ntrk", "pcnl:best_of=27", "dno:best_of=27")
TRIED: dict[str, Callable[[], Optimizer]] = {
    "auto, with pcnl for ascent": lambda: Explore(Langevin()),
    "auto, with linear gradients": lambda: Explore(steady(Backprop(through="linear"))),
    "auto, with smoothed gradients": lambda: Explore(steady(Smoothed())),
    "auto, with whitened gradients": lambda: Explore(Steady(WhitenedAscent())),
    "auto, with a white spectrum": lambda: Explore(Steady(GradientAscent(project=[SpectralProjection()]))),
    "auto, with Adam on the spectrum": lambda: Explore(Steady(FourierAscent())),
    "auto, with gradient-informed regions": lambda: Explore(GradientRegion()),
    "auto, again and again": lambda: Relay(BestOfN(9), Rounds()),
    "auto, with 8 guided runs": lambda: Explore(Steady(GradientAscent()), guided=8),
    "8 guided runs, then ascent": lambda: Relay(Tilting(), Steady(GradientAscent()), steps=8),
    "best of 9, then guided runs": lambda: Relay(BestOfN(9), Tilting()),
}
BLIND: dict[str, Callable[[], Optimizer]] = {
    "fk around the best": TurnedFK,
    "pruned best of n": PrunedBestOfN,
    "pruned best of n, then trust regions": lambda: Relay(PrunedBestOfN(), TrustRegion()),
    "fk, then trust regions": lambda: Relay(TurnedFK(), TrustRegion(8, 4), steps=3),
}
BLIND_LIBRARY = ("best-of-n:samples=9", "auto", "fk", "walk")


def build(name: str) -> str | Method:
    """A method by its name here."""
    makers = {**TRIED, **BLIND}
    return Method(makers[name](), plausible=Plausible()) if name in makers else read_method(name).text


def names(reward: str) -> list[str]:
    """The methods to compare under a reward."""
    if frontier.reward_of(reward).differentiable:
        return [*LIBRARY, *TRIED]
    return [*BLIND_LIBRARY, *BLIND]


def run(reward: str, name: str, chunk: Sequence[tuple[str, str | None]], **how: Any) -> list[dict[str, Any]]:
    """One method on some captions, read off at each mark."""
    return frontier.run("stickers", CALL, reward, build(name), chunk, **how)


def lines(results: dict[str, dict[str, list[Any]]], marks: Sequence[int]) -> list[str]:
    """A table per reward, in Markdown: each method's gain, and how far it is ahead of `auto` on the same images."""
    text: list[str] = []
    for reward, by in results.items():
        text += [f"**{reward}**", "", "| method | " + " | ".join(f"{mark}x | less auto's" for mark in marks)
                 + f" | noun right, {marks[-1]}x | fails a test, {marks[-1]}x |",
                 "|" + "---|" * (3 + 2 * len(marks))]  # fmt: skip
        for name, parts in by.items():
            cells = [f"`{name}`" if name in (*LIBRARY, *BLIND_LIBRARY) else name]
            for mark in marks:
                own = gain(parts, mark)
                ahead = [a - b for a, b in zip(own, gain(by["auto"], mark), strict=True)] if "auto" in by else []
                cells += [format_mean(interval(own), 3), format_mean(interval(ahead), 3) if ahead else ""]
            cells += [share(pool(parts, marks[-1], "noun")), share([float(x) for x in failing(parts, marks[-1])])]
            text.append("| " + " | ".join(cells) + " |")
        text.append("")
    return text


def verdict(results: dict[str, dict[str, list[Any]]], marks: Sequence[int]) -> str:
    """Which methods are significantly ahead of `auto`, and where."""
    ahead = []
    for reward, by in results.items():
        for name, parts in by.items():
            for mark in marks:
                pairs = zip(gain(parts, mark), gain(by["auto"], mark), strict=True) if "auto" in by else ()
                one = interval([a - b for a, b in pairs]) if "auto" in by else {"mean": 0.0, "half": 0.0}
                if name != "auto" and one["mean"] > one["half"]:
                    ahead.append(f"{name} under {reward} at {mark}x by {format_mean(one, 3)}")
    return "significantly ahead of auto: " + ("; ".join(ahead) or "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", nargs="+", choices=REWARDS)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--chunks", type=int, help="of 8 images each")
    parser.add_argument("--marks", nargs="+", type=int, default=list(MARKS))
    parser.add_argument("--small", action="store_true", help="one reward, two methods, one chunk; nothing is written")
    add_engine(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    marks = [1] if given.small else given.marks
    chunks = frontier.chunks(given.chunks or (1 if given.small else 2), 8)
    cells: dict[tuple[str, str, int], Cell] = {}
    for reward in given.rewards or (REWARDS[:1] if given.small else REWARDS):
        for name in given.methods or (["auto", "auto, with pcnl for ascent"] if given.small else names(reward)):
            for number, chunk in enumerate(chunks):
                how = {"batch": 1, "seed": 1000 + number, "marks": marks}
                key = {"version": model(), "call": CALL, "reward": reward, "method": name, "chunk": chunk, **how}
                folder = CELLS / "methods" / "images" / reward / name.replace(":", "-") / str(number)
                how |= {"images": Path(folder), "work": CELLS / "methods" / "runs" / hash_key(key)}
                cells[reward, name, number] = Cell(key, partial(run, reward, name, chunk, **how))
    results: dict[str, dict[str, list[Any]]] = {}
    for (reward, name, _), looks in compute("methods", cells, engine=read_engine(given)).items():
        results.setdefault(reward, {}).setdefault(name, []).append(looks)
    print("\n".join(lines(results, marks)))
    if not given.small:
        settings = {"call": CALL, "samples": frontier.SAMPLES, "marks": marks, "chunks": chunks}
        write("methods", settings=settings, results=results, verdict=verdict(results, marks))


if __name__ == "__main__":
    main()
