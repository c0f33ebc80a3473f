"""What keeps an optimized image in the model's distribution? Guards side by side, judged by a held-out model.

The built-in model, 10 sampler steps at eta 1, Adam with a rate five times the default, so that there is something to
guard against. Rewards brightness and darkness; captions that contradict them ("a duck on a black background" made
bright) and neutral ones ("a duck"). Every guard gets the same captions, seeds and number of steps. Measured every
fifth step: the reward, P(z), the strict P(z), and the judge's verdict on noun and background, neither of which is ever
optimized.

32 pairs of caption and seed screen all guards; the three finalists get 160.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial

from experiments import built_in
from experiments import in_distribution_report as report
from experiments.cells import Cell
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from experiments.guarded import GROUPS, RATE, Guard, optimize
from noiseward import stickers

CLAIM = Claim(
    title="What keeps optimized images in the model's distribution",
    paper="naive DNO can leave the support of the pretrained distribution, and probability regularization remedies it "
    "effectively",
    source="abstract; the other guards are this project's comparison",
    minutes=170,
)
STEPS, WATCH, ROWS = 25, 5, 8
GUARDS = {
    "none": Guard(),
    "concentration:1.0": Guard("concentration:1.0"),
    "concentration:target=0.1": Guard("concentration:target=0.1"),
    "shell:0.01": Guard("shell:0.01"),
    "norm projection": Guard(project=("norm",)),
    "spectral projection": Guard(project=("spectral",)),
    "first draw only": Guard(eta=0.0),
    "default rate": Guard(rate=0.01),
    "first draw only, norm projection": Guard(project=("norm",), eta=0.0),
    "spectral projection, target=0.1": Guard("concentration:target=0.1", ("spectral",)),
}


def pairs(chunk: int, rows: int) -> list[tuple[str, int]]:
    """Noun and seed of each row of a chunk; the same for every guard and group."""
    nouns = stickers.nouns()
    return [(nouns[(chunk * ROWS + row) * 7 % len(nouns)], 1000 + chunk * ROWS + row) for row in range(rows)]


def conduct(request: Request) -> Outcome:
    """Every guard on every group, finalists on five chunks of them."""
    guards = request.pick(
        list(GUARDS), ["none", "norm projection", "concentration:target=0.1"], ["none", "norm projection"]
    )
    groups = request.pick(list(GROUPS), list(GROUPS)[:2], list(GROUPS)[:2])
    steps, rows, sampler_steps = request.pick(STEPS, 5, 1), request.pick(ROWS, ROWS, 1), request.pick(10, 10, 2)
    finalists: list[str] = getattr(request.given, "finalists", None) or []
    work = [(guard, group, 0) for group in groups for guard in guards]
    work += [(guard, group, chunk) for chunk in range(1, 5) for group in groups for guard in finalists]
    cells: dict[tuple[str, str, int], Cell] = {}
    for guard, group, chunk in work:
        key = {"guard": dataclasses.asdict(GUARDS[guard]), "group": group, "chunk": chunk, "moves": steps, "rows": rows,
               "model": built_in.version()}  # fmt: skip
        path = report.image_path(request.folder, guard, group, chunk, steps)
        cells[guard, group, chunk] = Cell(key, partial(
            optimize, GUARDS[guard], group, pairs(chunk, rows), steps=steps, every=WATCH,
            images=path, sampler_steps=sampler_steps,
        ))  # fmt: skip
    results: report.Results = {}
    for (guard, group, _), run in request.cells(cells).items():
        results.setdefault(guard, {}).setdefault(group, []).append(run)
    settings = {"steps": steps, "rate": RATE, "num_inference_steps": sampler_steps, "eta": 1.0, "rows": rows,
                "seeds": "1000 + number of the pair", "finalists": finalists}  # fmt: skip
    table = report.summaries(results)
    return Outcome(
        verdict=report.verdict(table),
        agreement=report.agreement(table),
        settings=settings,
        results=table,
        table=report.lines(table),
        figure=report.draw(results),
        images={"pictures": report.contact(results, request.folder, steps)},
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Who gets more rows."""
    parser.add_argument("--finalists", nargs="*", choices=list(GUARDS), default=[], help="guards that get 160 pairs")


if __name__ == "__main__":
    main("in_distribution", CLAIM, conduct, options=options)
