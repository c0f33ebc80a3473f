"""Which method, at equal cost? `noiseward compare` on the built-in model, and the pages that are written from it.

Rewards brightness, clip and jpeg; 4 prompts x 2 seeds; every method under the same budget of denoiser calls, read off
at a quarter, half and all of it. The tables go into `docs/compare.md`, the plots next to it, and
`docs/how-to-choose.md` gets what follows from them by the rule that `choice` states. `lgd` decodes ten times per step
and takes seven times the seconds of `dno` for as many denoiser calls: it is left out unless asked for.

    python -m experiments.compare [--small] [--rewards brightness jpeg] [--slow]

Runs are stored in `.experiments/comparisons/`: interrupt it when you like.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from experiments.cells import CELLS
from experiments.report import write
from experiments.support import insert
from noiseward import stickers, terminal
from noiseward.methods import DEFAULT_METHODS
from noiseward.options.run import RunSpec
from noiseward.sweep.compare import compare
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.measure import Line, Measured
from noiseward.sweep.tables import markdown
from noiseward.sweep.view import Tally, show

DOCS = Path(__file__).parents[1] / "docs"
REWARDS = ("brightness", "clip", "jpeg")
PROMPTS = ("a duck", "a rabbit", "a heart", "a duck on a black background")
CALL = {"num_inference_steps": 10, "guidance_scale": 3.0, "eta": 1.0}
SLOW = ("lgd",)
SHARES = {"0.25": "a quarter of the budget", "1.0": "the whole budget"}


def comparison_of(reward: str, small: bool, slow: bool = False) -> Comparison:
    """What is compared for a reward."""
    judge = ("stickers-judge",) if (stickers.path("judge") / "config.json").exists() else ()
    other = tuple(name for name in ("contrast", "jpeg") if name != reward)
    base = RunSpec(reward=(reward,), seed=0 if small else 100, watch=judge + other, call=CALL)
    if small:
        few = base.replace(num_inference_steps=4)
        return Comparison(few, PROMPTS[:1], ("best-of-n:samples=2", "dno", "fk"), amount=150, seeds=2)
    asked = [method for method in DEFAULT_METHODS if slow or method not in SLOW]
    methods = tuple("dno:coarse=5" if method.startswith("dno:coarse") else method for method in asked)
    return Comparison(base, PROMPTS, methods, amount=1000, seeds=2)


def folder(reward: str, small: bool, slow: bool) -> Path:
    """Where a comparison is stored."""
    return CELLS / "comparisons" / (reward + ("-small" if small else "") + ("-slow" if slow else ""))


def choice(found: Measured, share: str, *, faithful: bool) -> Line | None:
    """The method of the highest gain; where fidelity comes first, among those whose noise still looks like noise (at
    most one case in ten does not) and whose first held-out reward has not fallen significantly."""
    rows = found.rows(share)
    if faithful:
        rows = [
            row for row in rows if row.suspect <= 0.1 and all(_leaves(*pair) for pair in list(row.held.values())[:1])
        ]
    return max(rows, key=lambda row: row.gain.mean, default=None)


def _leaves(now: object, change: object) -> bool:
    mean, half = (getattr(change, name) for name in ("mean", "half"))
    return not mean + (half if half == half else abs(mean)) < 0


def choices(measured: dict[str, Measured]) -> str:
    """What to take when, as a table: one line per reward and wish, with those not significantly worse."""
    lines = ["| optimized | comes first | after | take | not significantly worse |", "|---|---|---|---|---|"]
    for reward, found in measured.items():
        for faithful in (False, True):
            for share, after in SHARES.items():
                row = choice(found, share, faithful=faithful)
                if row is None:
                    continue
                ties = [
                    other.method for other in found.rows(share)
                    if other.rank == row.rank and other.method != row.method
                ]  # fmt: skip
                wish = "fidelity" if faithful else "reward"
                gain = f"`{row.method}` (gain {row.gain})"
                lines.append(f"| {reward} | {wish} | {after} | {gain} | {', '.join(ties) or 'none'} |")
    return "\n".join(lines)


def settings_of(comparison: Comparison) -> dict[str, Any]:
    """What was compared, as plain data."""
    plain = {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}
    return {**plain, "base": comparison.base.plain()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="three methods, one prompt, two seeds; no page is written")
    parser.add_argument("--rewards", nargs="*", default=list(REWARDS))
    parser.add_argument("--slow", action="store_true", help="with the methods that take hours, in a folder of its own")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, Measured] = {}
    tables = []
    for reward in arguments.rewards[:1] if arguments.small else arguments.rewards:
        asked = comparison_of(reward, arguments.small, arguments.slow)
        out = folder(reward, arguments.small, arguments.slow)
        tally = Tally(sum(row.spec.batch for row in asked.rows()))
        console = terminal.console(stderr=True)
        measured[reward] = compare(asked, out, view=partial(show, tally=tally, console=console))
        text = markdown(asked, measured[reward])
        if not arguments.small:
            for name in ("reward", "fidelity"):
                Image.open(out / f"{name}.png").save(DOCS / "pictures" / f"compare-{reward}-{name}.png", optimize=True)
            shown = [f"![{name} of {reward}](pictures/compare-{reward}-{name}.png)" for name in ("reward", "fidelity")]
            text = text + "\n" + "\n".join(shown)
        tables.append(f"### {reward}\n\n{text}")
    if not arguments.small:
        for page, mark, text in (
            ("compare.md", "measured", "\n" + "\n\n".join(tables) + "\n"),
            ("how-to-choose.md", "choices", "\n" + choices(measured) + "\n"),
        ):
            path = DOCS / page
            path.write_text(insert(path.read_text(encoding="utf-8"), mark, text), encoding="utf-8")
    said, tables_of = [], {}
    for reward, found in measured.items():
        best = choice(found, "1.0", faithful=False)
        own = next((row for row in found.rows("1.0") if row.method == "dno"), None)
        said.append(f"{reward}: {best.method} gains {best.gain}" if best else f"{reward}: no method applies")
        said += [f"dno {own.gain} (rank {own.rank})"] if own else []
        table = folder(reward, arguments.small, arguments.slow) / "table.json"
        tables_of[reward] = json.loads(table.read_text())
    settings = {reward: settings_of(comparison_of(reward, arguments.small, arguments.slow)) for reward in measured}
    name = "compare_small" if arguments.small else "compare"
    write(name, settings=settings, results=tables_of, verdict="; ".join(said))


if __name__ == "__main__":
    main()
