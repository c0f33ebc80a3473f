"""`noiseward compare`: which method, for this model, this reward and this budget?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.cli import engines, options
from noiseward.pipelines.cards import DEFAULT_MODEL, card_of

__all__ = ["compare"]


def compare(
    reward: options.Reward,
    out: Annotated[Path, typer.Option(help="Directory: new, or one of this comparison to go on with.")],
    prompts: Annotated[
        list[str] | None, typer.Option(help="A prompt, or a text file with one per line. Repeatable.")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="The same for all: nfe=2000 (denoiser calls per picture) or seconds=60 (per pack).")
    ] = "nfe=2000",
    methods: Annotated[
        str | None,
        typer.Option(help="As in best-of-n,reno,dno:lr=0.05. docs/compare.md says what each is.  [default: all]"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures per prompt, with seeds SEED, SEED + 1, ...")] = 4,
    seed: Annotated[int, typer.Option(help="The first seed of each prompt.")] = 0,
    watch: options.Watch = None,
    model: options.Model = DEFAULT_MODEL,
    scheduler: options.Scheduler = None,
    lora: options.Lora = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    memory: options.Memory = None,
    num_inference_steps: options.NumInferenceSteps = None,
    guidance_scale: options.GuidanceScale = None,
    eta: options.Eta = None,
    height: options.Height = None,
    width: options.Width = None,
    negative_prompt: options.NegativePrompt = None,
    set_: options.Set = None,
    engine: engines.Name = "local",
    address: engines.Address = None,
    workers: engines.Workers = None,
    threads: engines.Threads = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only say where the report is.")] = False,
) -> None:
    """Run methods at equal cost on the same prompts and seeds, and rank them, with a held-out judge looking on."""
    import contextlib

    import torch

    from noiseward import terminal
    from noiseward.cli.assignments import assignments
    from noiseward.comparison import CompareSpec
    from noiseward.comparison import compare as run
    from noiseward.comparison.report import cells
    from noiseward.comparison.run import local
    from noiseward.comparison.spec import budget as read
    from noiseward.comparison.spec import prompts as told
    from noiseward.methods import METHODS
    from noiseward.named import split

    named = {
        "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "eta": eta, "height": height,
        "width": width, "negative_prompt": negative_prompt,
    }  # fmt: skip
    call: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    kind, amount = read(budget)
    spec = CompareSpec(
        reward=tuple(reward), prompts=told(prompts or ()), kind=kind, amount=amount, seeds=seeds, seed=seed,
        methods=tuple(METHODS) if methods is None else split([methods]),
        watch=None if not watch else tuple(one for one in split(watch) if one != "none"),
        model=model, memory=memory, scheduler=scheduler, lora=lora, dtype=dtype, device=device,
        call={**call, **assignments(set_)},
    )  # fmt: skip
    if not spec.prompts and (card := card_of(spec.model)) and card.needs_prompt:
        raise typer.BadParameter("no prompt was given: say what to draw, as in 'a duck'", param_hint="--prompts")
    engines.check(engine, address, workers)
    torch.set_num_threads(threads)
    console = terminal.console(stderr=True)

    def said(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, soft_wrap=True)

    with contextlib.ExitStack() as stack:
        doing = local
        if engine == "ray":
            from noiseward.comparison.ray import on
            from noiseward.runs.cluster import Cluster

            doing = on(stack.enter_context(Cluster(address, workers=workers, threads=threads)))
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
