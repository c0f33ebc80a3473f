"""Options that several commands share: the fields of the run spec that say how a run is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiseward.cli.assignments import assignments
from noiseward.named import split

if TYPE_CHECKING:
    from noiseward.runs import RunSpec

Reward = Annotated[
    list[str],
    typer.Option(
        help="NAME, NAME:WEIGHT, path/to/file.py:function (this runs that file), or http://host:port (a server "
        "that gets the pictures). Repeat to add rewards up. "
        "'noiseward rewards' lists the names."
    ),
]
Model = Annotated[str, typer.Option(help="A short name ('noiseward models'), folder, hub id or file.")]
Scheduler = Annotated[str | None, typer.Option(help="Another scheduler: ddim, euler-a, ..., or a class.")]
Lora = Annotated[str | None, typer.Option(help="A file or folder of LoRA weights.")]
Dtype = Annotated[str | None, typer.Option(help="Of the weights: float32, bfloat16, ...")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.  [default: auto]")]
Steps = Annotated[int | None, typer.Option(help="Moves of the noise.  [default: 30, if no other limit]")]
Seconds = Annotated[float | None, typer.Option(help="Stop before this much time has passed.")]
Nfe = Annotated[int | None, typer.Option(help="Stop before this many denoiser calls (backward counts 2).")]
Target = Annotated[float | None, typer.Option(help="Stop a picture when its reward reaches this.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of Adam.  [default: 0.01]")]
Estimator = Annotated[
    str | None,
    typer.Option(
        help="Where directions come from: backprop, annealed, hybrid2, hybrid1, zeroth-order; with arguments, as in "
        "hybrid2:samples=16,scale=0.05 or backprop:steps=5.  [default: backprop; a reward without a gradient is "
        "searched]"
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        help="Search without gradients instead: best-of-n, zero-order, trust-region, evolution, fk; or steer the "
        "sampler on its way by the reward's: dps, lgd. With arguments, as in zero-order:samples=8,cosine=0.98.  "
        "[default: trust-region for a reward without a gradient]"
    ),
]
BestOf = Annotated[
    int | None, typer.Option(help="Try so many fresh noises first, as one move, and climb from the best.")
]
Regularizer = Annotated[
    str | None,
    typer.Option(help="concentration:target=0.1 (a P(z) to keep), concentration:1.0 (a weight), shell:0.01, none."),
]
Project = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep each draw's noise on its sphere: norm; white: spectral; move the first draw alone: start. "
        "Repeatable."
    ),
]
Watch = Annotated[
    list[str] | None,
    typer.Option(
        help="Rewards that look on and are not climbed, as in clip,jpeg; none for none.  [default: for stickers "
        "its judge, contrast and jpeg]"
    ),
]
WatchEvery = Annotated[int, typer.Option(help="Watch at every so many steps.")]
Coarse = Annotated[
    int | None,
    typer.Option(help="Spend most of the budget on so few sampler steps, then carry the noise over (DDIM, eta 1)."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="fast: keep all activations; balanced: recompute them, a denoiser call at a time; low: block by block; "
        "auto: what fits.  [default: balanced; fast for stickers]"
    ),
]
NumInferenceSteps = Annotated[int | None, typer.Option(help="Sampler steps.")]
GuidanceScale = Annotated[float | None, typer.Option(help="Classifier-free guidance.")]
Eta = Annotated[float | None, typer.Option(help="DDIM: 0 for the ODE, 1 for noise at every step.")]
Height = Annotated[int | None, typer.Option(help="Of the picture, in pixels.")]
Width = Annotated[int | None, typer.Option(help="Of the picture, in pixels.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What not to draw.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other argument of the pipeline, as KEY=VALUE.")]


def asked(parameters: Mapping[str, Any], **own: Any) -> RunSpec:
    """The run spec that a command's options ask for.

    Arguments:
        parameters: of the command, by name: `context.params`. What was not given, the spec's defaults decide.
        own: fields of the spec that the command has in other words.
    """
    from noiseward.errors import ArgumentError
    from noiseward.runs import RunSpec
    from noiseward.runs.prompts import CALL
    from noiseward.runs.storable import check_storable

    if parameters["search"] is not None:
        for name in ("estimator", "lr", "project", "best_of"):
            if parameters[name] not in (None, [], ()):
                option = name.replace("_", "-")
                raise ArgumentError(f"--{option} given beside --search: a search follows no direction; leave one out")
    call = {name: parameters[name] for name in CALL if parameters[name] is not None}
    more = assignments(parameters["set_"])
    check_storable({f"--set {name}": value for name, value in more.items()})
    for name in call.keys() & more.keys():
        raise ArgumentError(f"--{name.replace('_', '-')} and --set {name} are both given; give one")
    call.update(more)
    fields = {field.name for field in dataclasses.fields(RunSpec)} - {"prompt", "batch", "seed", "call", "watch"}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in parameters.items()
        if name in fields and value not in (None, [], ())
    }
    watch = parameters["watch"]
    return RunSpec(**{**given, "watch": _several(watch) if watch else None, "call": call, **own})


def _several(texts: list[str]) -> tuple[str, ...]:
    """`clip:model=ID,scale=100,jpeg` is two rewards: a piece that is only KEY=VALUE belongs to the one before it."""
    return tuple(piece for piece in split(texts) if piece != "none")
