"""`noiseward align`: raise a reward, keep the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.cli.assignments import assignments

__all__ = ["align"]


def _spoken(prompts: list[str] | None) -> list[str]:
    if any(not prompt.strip() for prompt in prompts or []):
        raise typer.BadParameter("an empty prompt was given: say what to draw, as in 'a duck'")
    return prompts or []


def align(
    reward: Annotated[
        list[str],
        typer.Option(
            help="NAME, NAME:WEIGHT, path/to/file.py:function (this runs that file), or http://host:port (a server "
            "that gets the pictures). Repeat to add rewards up. "
            "'noiseward rewards' lists the names."
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="What to draw; several run in one batch. None for a model without.", callback=_spoken),
    ] = None,
    model: Annotated[str, typer.Option(help="A short name ('noiseward models'), folder, hub id or file.")] = "stickers",
    scheduler: Annotated[str | None, typer.Option(help="Another scheduler: ddim, euler-a, ..., or a class.")] = None,
    lora: Annotated[str | None, typer.Option(help="A file or folder of LoRA weights.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the weights: float32, bfloat16, ...")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.  [default: auto]")] = None,
    steps: Annotated[int | None, typer.Option(help="Moves of the noise.  [default: 30, if no other limit]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop before this much time has passed.")] = None,
    nfe: Annotated[int | None, typer.Option(help="Stop before this many denoiser calls (backward counts 2).")] = None,
    target: Annotated[float | None, typer.Option(help="Stop a picture when its reward reaches this.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures per prompt, with seeds SEED, SEED + 1, ...")] = 1,
    seed: Annotated[int, typer.Option(help="Start from the picture the pipeline gives for this seed.")] = 0,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.  [default: 0.01]")] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            help="Where directions come from: backprop, hybrid2, hybrid1, zeroth-order; with arguments, as in "
            "hybrid2:samples=16,scale=0.05.  [default: backprop; hybrid2 for a reward without a gradient]"
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="Search without gradients instead: best-of-n, zero-order, trust-region, evolution, fk; or steer the "
            "sampler on its way by the reward's: dps, lgd. With arguments, as in zero-order:samples=8,cosine=0.98."
        ),
    ] = None,
    regularizer: Annotated[
        str | None,
        typer.Option(help="concentration:target=0.1 (a P(z) to keep), concentration:1.0 (a weight), shell:0.01, none."),
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep each draw's noise on its sphere: norm; white: spectral; move the first draw alone: start. "
            "Repeatable."
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(
            help="Rewards that look on and are not climbed, as in clip,jpeg; none for none.  [default: for stickers "
            "its judge, contrast and jpeg]"
        ),
    ] = None,
    watch_every: Annotated[int, typer.Option(help="Watch at every so many steps.")] = 1,
    memory: Annotated[str | None, typer.Option(help="fast: keep activations; balanced: recompute them.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option(help="Sampler steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM: 0 for the ODE, 1 for noise at every step.")] = None,
    height: Annotated[int | None, typer.Option(help="Of the picture, in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the picture, in pixels.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other argument of the pipeline, as KEY=VALUE.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory, new or empty.  [default: runs/PROMPT-REWARD]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")] = False,
) -> None:
    """Raise a reward by moving the sampler's own noise, and keep pictures and noise in a run directory."""
    if not prompt and model == "stickers":
        raise typer.BadParameter("no prompt was given: say what to draw, as in 'a duck'", param_hint="PROMPT")
    named = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "eta": eta,
        "height": height,
        "width": width,
        "negative_prompt": negative_prompt,
    }
    call = {name: value for name, value in named.items() if value is not None}
    call.update(assignments(set_))

    import torch
    from rich.console import Console

    from noiseward.cli.tables import report
    from noiseward.errors import ArgumentError
    from noiseward.runs import RunFolder, RunSpec, execute, fresh_folder

    if search is not None:
        for name, given in (("estimator", estimator), ("lr", lr), ("project", project)):
            if given is not None:
                raise ArgumentError(f"--{name} given beside --search: a search follows no direction; leave one out")
    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    spec = RunSpec(
        prompt=tuple(prompt or ()),
        reward=tuple(reward),
        model=model,
        steps=steps,
        seconds=seconds,
        nfe=nfe,
        target=target,
        batch=batch,
        seed=seed,
        estimator=estimator,
        search=search,
        regularizer=regularizer,
        project=tuple(project or ()),
        watch=None if watch is None else _several(watch),
        watch_every=watch_every,
        memory=memory,
        scheduler=scheduler,
        lora=lora,
        dtype=dtype,
        device=device,
        call=call,
        **options,
    )
    if spec.model == "stickers":
        torch.set_num_threads(1)  # as fast as more on so small a model, and at no other program's mercy
    folder = out or fresh_folder(Path("runs"), spec)
    execute(spec, folder, console=Console(stderr=True), quiet=quiet)
    if quiet:
        print(folder)
    else:
        report(RunFolder(folder), Console())


def _several(texts: list[str]) -> tuple[str, ...]:
    """`clip:model=ID,scale=100,jpeg` is two rewards: a piece that is only KEY=VALUE belongs to the one before it."""
    found: list[str] = []
    for piece in (piece.strip() for text in texts for piece in text.split(",")):
        if found and "=" in piece.partition(":")[0]:
            found[-1] += f",{piece}"
        elif piece and piece != "none":
            found.append(piece)
    return tuple(found)
