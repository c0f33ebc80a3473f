"""`noiseward batch`: many prompts, one command, one directory."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiseward.cli import engines, options
from noiseward.pipelines.cards import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from noiseward.runs.ray import RayEngine
    from noiseward.runs.report import Outcome

__all__ = ["batch", "table"]


def batch(
    context: typer.Context,
    prompts: Annotated[
        str,
        typer.Argument(
            help="A file of prompts, .txt (one per line), .jsonl or .csv (with columns that set options per line), or "
            "the name of a set: simple-animals.",
        ),
    ],
    reward: options.Reward,
    out: Annotated[Path, typer.Option(help="Batch directory: new, or one to go on with.")],
    seeds: Annotated[int, typer.Option(min=1, help="Pictures per prompt, with seeds SEED, SEED + 1, ...")] = 1,
    seed: Annotated[int, typer.Option(help="The first seed of each prompt.")] = 0,
    pack: Annotated[
        int, typer.Option(min=1, help="Rows, prompts times seeds, that are done as one batch of the device.")
    ] = 4,
    template: Annotated[str, typer.Option(help="What becomes of a prompt, as in 'a {} on a lake'.")] = "{}",
    engine: engines.Name = "local",
    address: engines.Address = None,
    workers: engines.Workers = None,
    threads: engines.Threads = 1,
    model: options.Model = DEFAULT_MODEL,
    scheduler: options.Scheduler = None,
    lora: options.Lora = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    steps: options.Steps = None,
    seconds: options.Seconds = None,
    nfe: options.Nfe = None,
    target: options.Target = None,
    lr: options.Lr = None,
    estimator: options.Estimator = None,
    search: options.Search = None,
    best_of: options.BestOf = None,
    regularizer: options.Regularizer = None,
    project: options.Project = None,
    watch: options.Watch = None,
    watch_every: options.WatchEvery = 1,
    coarse: options.Coarse = None,
    memory: options.Memory = None,
    num_inference_steps: options.NumInferenceSteps = None,
    guidance_scale: options.GuidanceScale = None,
    eta: options.Eta = None,
    height: options.Height = None,
    width: options.Width = None,
    negative_prompt: options.NegativePrompt = None,
    set_: options.Set = None,
    json: Annotated[
        bool, typer.Option("--json", help="A line of JSON per event on standard output, no table.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No view, no table.")] = False,
) -> None:
    """Raise a reward for many prompts; asked again, go on. Ends with a table, pictures and a page in the directory."""
    import torch

    from noiseward import terminal
    from noiseward.errors import ArgumentError
    from noiseward.runs.batch import begin
    from noiseward.runs.engine import Local
    from noiseward.runs.prompts import read
    from noiseward.runs.report import report
    from noiseward.runs.view import Tally, follow, in_lines

    if json and quiet:
        raise ArgumentError("--json given beside --quiet: one says everything, the other nothing; leave one out")
    engines.check(engine, address, workers)
    base = options.asked(context.params, prompt=(), batch=seeds, seed=seed)
    torch.set_num_threads(threads)
    asked = begin(out, read(prompts, base, template=template), size=pack)
    total = sum(1 for one in asked.packs for _ in one.rows())
    tally = Tally(total, total - sum(1 for one in asked.undone() for _ in one.rows()))
    errors: dict[str, str] = {}
    stopped = False
    with contextlib.ExitStack() as stack:
        view: Any = asked.run(stack.enter_context(_ray(address, workers, threads)) if engine == "ray" else Local())
        if json:
            view = in_lines(view, tally, sys.stdout)
        elif not quiet:
            view = follow(view, tally, asked.packs, console=terminal.console(stderr=True))
        try:
            for beat in view:
                stopped = stopped or beat.state == "interrupted"
                if beat.error:
                    errors[beat.pack] = beat.error
        except KeyboardInterrupt:
            stopped = True
    found = report(asked, errors)
    if quiet or json:
        print(out, file=sys.stderr if json else sys.stdout)
    else:
        console = terminal.console()
        table(found, out, console)
        if stopped:
            console.print("stopped: the same command goes on", highlight=False)
    undone = [one for one in found if one.state != "done"]
    if undone:
        print(_last(undone, len(found)), file=sys.stderr)
        raise typer.Exit(1)


def _last(undone: Sequence[Outcome], rows: int) -> str:
    """The last line of a batch that is not done: what failed, and how to go on."""
    bad = [one for one in undone if one.state in ("failed", "damaged")]
    if not bad:
        return f"noiseward: {len(undone)} of {rows} rows are not done: give the same command again to go on"
    first = bad[0]
    return (
        f"noiseward: {len(bad)} of {rows} rows are {first.state}, first '{first.id}' with seed {first.seed} "
        f"({first.error or 'for no known reason'}): correct that, and give the same command again to go on"
    )


def _ray(address: str | None, workers: int | None, threads: int) -> RayEngine:
    from noiseward.runs.ray import RayEngine

    return RayEngine(address, workers=workers, threads=threads)


def table(found: Sequence[Outcome], out: Path, console: Console) -> None:
    """Print the outcomes of a batch, one line per prompt, and where its files are."""
    from rich.table import Table

    from noiseward.noise.typicality import SUSPECT
    from noiseward.runs.report import counted

    lines = Table(box=None, header_style="bold")
    for title in ("id", "prompt", "rows", "before", "best", "gain", "P(z)", "state"):
        lines.add_column(title, justify="left" if title in ("id", "prompt", "state") else "right")
    by_id: dict[str, list[Outcome]] = {}
    for one in found:
        by_id.setdefault(one.id, []).append(one)
    for name, rows in by_id.items():
        means = [_mean([getattr(one, column) for one in rows]) for column in ("before", "best", "gain", "probability")]
        lines.add_row(name, rows[0].prompt, str(len(rows)), *means, counted(rows))
    console.print(lines)
    for error in dict.fromkeys(one.error for one in found if one.error):
        ids = ", ".join(dict.fromkeys(one.id for one in found if one.error == error))
        console.print(f"{ids}: {error}", highlight=False, soft_wrap=True)
    odd = sum(one.strict is not None and one.strict < SUSPECT for one in found)
    if odd:
        console.print(f"the noise of {odd} rows no longer looks like noise: index.csv, column strict", highlight=False)
    gain = _mean([one.gain for one in found]) if len({one.reward for one in found}) == 1 else ""
    console.print(f"{counted(found)}" + (f"; mean gain {gain}" if gain else ""), highlight=False)
    for file in ("index.csv", "contact.png", "report.html"):
        if (out / file).exists():
            console.print(str(out / file), highlight=False, soft_wrap=True)


def _mean(numbers: list[float | None]) -> str:
    there = [number for number in numbers if number is not None]
    return f"{sum(there) / len(there):.4g}" if there else ""
