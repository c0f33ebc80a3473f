"""Does the panel warn when it should? Its remark about reward hacking against the verdict of a model it never used.

The built-in model, 10 sampler steps, 30 optimization steps, at the default learning rate and at five times it; targets
brightness, darkness and contrast; neutral captions. The panel is the judge, contrast and jpeg (without the target
itself), as `align` has it. The truth comes from the other CLIP, which is neither optimized nor watched here: a row is
hacked if that model found its noun at the start and does not in the best image; rows whose noun it missed at the start
are left out.

Result: how often the rule speaks of hacked and of other rows: as it is, where the judge alone has a say; with contrast
and jpeg having one, too; by these two alone; and by the judge where a fall from its peak is enough, however much better
than the start the image still is.

The rule was chosen on the first images. `--fresh` asks it about others, of other nouns and seeds, unchanged.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from typing import Any

import torch

from experiments.cells import Cell, add_engine, compute, read_engine
from experiments.judge import right_noun
from experiments.report import model, write
from noiseward import stickers
from noiseward.loop.collect import collect
from noiseward.loop.hacking import find_hacking
from noiseward.options.run import Settings
from noiseward.problem import prepare
from training.evaluate import wilson
from training.words import caption

NAME, STEPS, ROWS = "panel_rule", 30, 8
CHOSEN_ON = 2  # chunks
TARGETS, RATES = ("brightness", "darkness", "contrast"), (0.01, 0.05)
JUDGE, STATISTICS = ("stickers-judge",), ("contrast", "jpeg")
PANELS = {"the rule": JUDGE, "judge, contrast and jpeg": JUDGE + STATISTICS, "contrast and jpeg": STATISTICS,
          "judge, from its peak": JUDGE}  # fmt: skip


def optimize(target: str, rate: float, chunk: int, steps: int) -> dict[str, Any]:
    """One chunk of rows: what was seen along the way, and whether each noun was right before and after."""
    known = stickers.nouns()
    nouns = [known[(chunk * ROWS + row) * 7 % len(known)] for row in range(ROWS)]
    problem = prepare(
        "stickers",
        [caption(noun) for noun in nouns],
        target,
        Settings(steps=steps, num_inference_steps=10),
        method=f"dno:lr={rate},guard=none",
    )
    seeds = [2000 + chunk * ROWS + row for row in range(ROWS)]
    problem = dataclasses.replace(problem, noise=problem.objective.sampler.init(ROWS, seed=seeds))
    solution = collect(problem.iterate(), problem.objective)
    course = [{part: record[part] for part in ("index", "reward", "watched", "found")} for record in solution.history]
    before, after = (right_noun(images, nouns, by="clip") for images in (solution.initial.sample, solution.sample))
    return {"course": course, "before": before, "after": after}


def warns(course: list[dict[str, Any]], panel: str, row: int) -> bool:
    """Whether a panel speaks of a row."""
    seen = [
        {
            **record,
            "silent": (),
            "watched": {name: record["watched"][name] for name in PANELS[panel] if name in record["watched"]},
        }
        for record in course
    ]
    if "peak" in panel:  # as if the start had been as good as the best
        for name, scores in seen[0]["watched"].items():
            highest = max(record["watched"][name][row] for record in seen)
            seen[0]["watched"][name] = [highest] * len(scores)
    return find_hacking(seen, row) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one target, one chunk, 6 steps")
    parser.add_argument("--chunks", type=int, default=2, help=f"of {ROWS} rows for each target and rate")
    parser.add_argument("--fresh", action="store_true", help="the chunks after those the rule was chosen on")
    add_engine(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    targets, chunks, steps = (TARGETS[:1], 1, 6) if arguments.small else (TARGETS, arguments.chunks, STEPS)
    first = CHOSEN_ON if arguments.fresh else 0
    work = [(target, rate, first + chunk) for chunk in range(chunks) for target in targets for rate in RATES]
    cells: dict[tuple[str, float, int], Cell] = {}
    for target, rate, chunk in work:
        key = {"target": target, "rate": rate, "chunk": chunk, "moves": steps, "model": model(), "kept": "course"}
        cells[target, rate, chunk] = Cell(key, partial(optimize, target, rate, chunk, steps))
    runs = list(compute(NAME, cells, engine=read_engine(arguments)).values())
    results = {panel: count_warnings(runs, panel) for panel in PANELS}
    settings = {"steps": steps, "rates": RATES, "targets": targets, "rows": ROWS * len(work), "model": model()}
    name = f"{NAME}_fresh" if arguments.fresh else NAME
    write(name, settings=settings, results=results, verdict=verdict(results))


def count_warnings(done: list[dict[str, Any]], panel: str) -> dict[str, Any]:
    """How often the rule spoke, with 95 % intervals."""
    warned: dict[bool, list[bool]] = {True: [], False: []}
    for chunk in done:
        for row, (before, after) in enumerate(zip(chunk["before"], chunk["after"], strict=True)):
            if before:
                warned[not after].append(warns(chunk["course"], panel, row))
    return {
        what: {
            "spoke": sum(values),
            "of": len(values),
            "interval": wilson(sum(values), len(values)) if values else None,
        }
        for what, values in (("hacked", warned[True]), ("kept", warned[False]))
    }


def verdict(results: dict[str, Any]) -> str:
    """The verdict in words."""
    return "; ".join(
        f"{panel}: speaks of {one['hacked']['spoke']} of {one['hacked']['of']} hacked rows and of "
        f"{one['kept']['spoke']} of {one['kept']['of']} others"
        for panel, one in results.items()
    )


if __name__ == "__main__":
    main()
