"""`noiseward align`: raise a reward, keep the run."""

from __future__ import annotations

from pathlib import Path

import typer

from noiseward.cli.flags import expand
from noiseward.cli.printing import say_loading
from noiseward.options.commands import AlignOptions
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of, set_threads
from noiseward.runs.check import check_inputs, check_names
from noiseward.runs.claim import Claim

__all__ = ["align"]


@expand
def align(spec: RunSpec, output: AlignOptions) -> None:
    """Raise a reward by optimizing the sampler's noise, and keep images and noise in a run directory."""
    if any(not prompt.strip() for prompt in spec.prompt):
        raise typer.BadParameter("PROMPT must not be empty; say what to draw, as in 'a duck'")
    if not spec.prompt and (card := card_of(spec.model)) and card.needs_prompt:
        raise typer.BadParameter("PROMPT is missing; say what to draw, as in 'a duck'")
    output.check_printing()
    check_names(spec)
    check_inputs(spec)
    claim = Claim(Path(output.out)) if output.out else Claim.fresh(Path("runs"), spec.slug)
    place = claim.find()
    if not output.quiet:
        say_loading(spec, place)

    from noiseward import terminal
    from noiseward.cli.ended import end_run
    from noiseward.runs.perform import execute

    set_threads(spec.model)
    solution = execute(spec, claim, log=output.log, console=terminal.console(stderr=True), quiet=output.quiet)
    if output.format != "png":
        from noiseward.runs.export import write_images
        from noiseward.runs.store import RunFolder

        write_images(RunFolder(claim.path), claim.path / "best", kind=output.format)
    end_run(spec, solution, claim.path, output)
