"""`noiseward compare`: which method, for this model, this reward and this budget?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli.flags import Without, expand
from noiseward.options.commands import CompareOptions, EngineOptions
from noiseward.options.parts import split_parts
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of

__all__ = ["compare"]

SEEDS = 4


@expand
def compare(
    task: CompareOptions,
    workers: EngineOptions,
    base: Annotated[RunSpec, Without("prompt", "method", "batch", "steps", "seconds", "nfe", "target", "watch_every")],
) -> None:
    """Run methods at equal cost on the same prompts and seeds, and rank them, with held-out rewards as a check."""
    import contextlib

    import torch

    from noiseward import terminal
    from noiseward.methods import DEFAULT_METHODS
    from noiseward.sweep.compare import compare as run
    from noiseward.sweep.compare import local
    from noiseward.sweep.comparison import CompareSpec
    from noiseward.sweep.comparison import prompts as told
    from noiseward.sweep.tables import cells

    out, quiet = Path(task.out), task.quiet
    kind, amount = task.limit
    spec = CompareSpec(
        reward=base.reward, prompts=told(task.prompts), kind=kind, amount=amount, seeds=task.seeds or SEEDS,
        seed=base.seed,
        methods=DEFAULT_METHODS if task.methods is None else split_parts(task.methods),
        watch=base.watch, model=base.model, memory=base.memory, call=base.arguments,
        scheduler=base.scheduler, lora=base.lora, dtype=base.dtype, device=base.device,
    )  # fmt: skip
    if not spec.prompts and (card := card_of(spec.model)) and card.needs_prompt:
        raise typer.BadParameter("--prompts is missing; say what to draw, as in 'a duck'")
    workers.check()
    torch.set_num_threads(workers.threads)
    console = terminal.console(stderr=True)

    def said(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, soft_wrap=True)

    with contextlib.ExitStack() as stack:
        doing = local
        if workers.engine == "ray":
            from noiseward.sweep.cluster import Cluster
            from noiseward.sweep.compare_ray import on

            doing = on(stack.enter_context(Cluster(workers.address, workers=workers.workers, threads=workers.threads)))
        found = run(spec, out, said=said, engine=doing)
    if not quiet:
        from rich.table import Table

        head, lines = cells(found.rows("1.0"))
        wide = terminal.console()
        shown = fitting([head, *lines], wide.width)
        table = Table(box=None, header_style="bold")
        for place in shown:
            table.add_column(head[place], justify="left" if head[place] == "method" else "right", no_wrap=True)
        for line in lines:
            table.add_row(*(line[place] for place in shown))
        wide.print(table)
        for method, why in found.refused.items():
            print(f"{method} does not apply: {why}")
    print(out / "report.html")


def fitting(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns of a table that fit into a terminal, the first ones before the last; the report has them all.

    Example:
        >>> fitting([["rank", "method", "gain"], ["1", "best-of-n", "0.5"]], 20)
        [0, 1]
    """
    room, shown = width, []
    for place in range(len(lines[0])):
        room -= 2 + max(len(line[place]) for line in lines)  # a space on either side
        if room >= 0:
            shown.append(place)
    return shown
