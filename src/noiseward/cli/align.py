"""`noiseward align`: raise a reward, keep the run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["align"]


def _spoken(prompts: list[str]) -> list[str]:
    if any(not prompt.strip() for prompt in prompts):
        raise typer.BadParameter("an empty prompt was given: say what to draw, as in 'a duck'")
    return prompts


def align(
    prompt: Annotated[
        list[str], typer.Argument(help="What to draw; several prompts run in one batch.", callback=_spoken)
    ],
    reward: Annotated[
        list[str],
        typer.Option(
            help="NAME, NAME:WEIGHT, or path/to/file.py:function (this runs that file). Repeat to add rewards up. "
            "'noiseward rewards' lists the names."
        ),
    ],
    model: Annotated[str, typer.Option(help="stickers (built in), a diffusers folder, or a hub id.")] = "stickers",
    steps: Annotated[int | None, typer.Option(help="Moves of the noise.  [default: 30, if no other limit]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop before this much time has passed.")] = None,
    nfe: Annotated[int | None, typer.Option(help="Stop before this many denoiser calls (backward counts 2).")] = None,
    target: Annotated[float | None, typer.Option(help="Stop a picture when its reward reaches this.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures per prompt, with seeds SEED, SEED + 1, ...")] = 1,
    seed: Annotated[int, typer.Option(help="Start from the picture the pipeline gives for this seed.")] = 0,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.  [default: 0.01]")] = None,
    regularizer: Annotated[
        str | None,
        typer.Option(help="concentration:target=0.1 (a P(z) to keep), concentration:1.0 (a weight), shell:0.01, none."),
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Keep each draw's noise on its sphere: norm; white: spectral. Repeatable.")
    ] = None,
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
    named = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "eta": eta,
        "height": height,
        "width": width,
        "negative_prompt": negative_prompt,
    }
    call = {name: value for name, value in named.items() if value is not None}
    call.update(_assignment(text) for text in set_ or [])

    import torch
    from rich.console import Console

    from noiseward.cli.tables import report
    from noiseward.runs import RunFolder, RunSpec, execute, fresh_folder

    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    spec = RunSpec(
        prompt=tuple(prompt),
        reward=tuple(reward),
        model=model,
        steps=steps,
        seconds=seconds,
        nfe=nfe,
        target=target,
        batch=batch,
        seed=seed,
        regularizer=regularizer,
        project=tuple(project or ()),
        memory=memory,
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


def _assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`, the value read as a Python literal where it is one."""
    name, mark, value = text.partition("=")
    if not mark or not name.isidentifier():
        raise typer.BadParameter(f"'{text}' given: KEY=VALUE wanted, as in guidance_rescale=0.7", param_hint="--set")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
