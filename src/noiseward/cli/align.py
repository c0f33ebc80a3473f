"""`noiseward align`: raise a reward, keep the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noiseward.cli import options
from noiseward.pipelines.cards import DEFAULT_MODEL, card_of, set_threads

__all__ = ["align"]


def _spoken(prompts: list[str] | None) -> list[str]:
    if any(not prompt.strip() for prompt in prompts or []):
        raise typer.BadParameter("an empty prompt was given: say what to draw, as in 'a duck'")
    return prompts or []


def align(
    context: typer.Context,
    reward: options.Reward,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="What to draw; several run in one batch. None for a model without.", callback=_spoken),
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    scheduler: options.Scheduler = None,
    lora: options.Lora = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    steps: options.Steps = None,
    seconds: options.Seconds = None,
    nfe: options.Nfe = None,
    target: options.Target = None,
    batch: Annotated[int, typer.Option(help="Pictures per prompt, with seeds SEED, SEED + 1, ...")] = 1,
    seed: Annotated[int, typer.Option(help="Start from the picture the pipeline gives for this seed.")] = 0,
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
    out: Annotated[
        Path | None, typer.Option(help="Run directory, new or empty.  [default: runs/PROMPT-REWARD]")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")] = False,
) -> None:
    """Raise a reward by moving the sampler's own noise, and keep pictures and noise in a run directory."""
    if not prompt and (card := card_of(model)) and card.needs_prompt:
        raise typer.BadParameter("no prompt was given: say what to draw, as in 'a duck'", param_hint="PROMPT")

    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.runs import Claim, RunFolder, execute

    spec = options.asked(context.params, prompt=tuple(prompt or ()), batch=batch, seed=seed)
    set_threads(spec.model)
    claim = Claim(out) if out else Claim.fresh(Path("runs"), spec.slug)
    execute(spec, claim, console=terminal.console(stderr=True), quiet=quiet)
    if quiet:
        print(claim.path)
    else:
        report(RunFolder(claim.path), terminal.console())
