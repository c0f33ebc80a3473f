"""`noiseward align`: raise a reward, keep the run."""

from __future__ import annotations

from pathlib import Path

import typer

from noiseward.cli.flags import expand
from noiseward.options.commands import AlignOptions
from noiseward.options.run import RunSpec

__all__ = ["align"]


@expand
def align(spec: RunSpec, output: AlignOptions) -> None:
    """Raise a reward by moving the sampler's own noise, and keep images and noise in a run directory."""
    if any(not prompt.strip() for prompt in spec.prompt):
        raise typer.BadParameter("PROMPT must not be empty; say what to draw, as in 'a duck'")
    if not spec.prompt and spec.model == "stickers":
        raise typer.BadParameter("PROMPT is missing; say what to draw, as in 'a duck'")

    import torch

    from noiseward import terminal
    from noiseward.cli.tables import report
    from noiseward.runs import Claim, RunFolder, execute

    if spec.model == "stickers":
        torch.set_num_threads(1)  # as fast as more on so small a model, and at no other program's mercy
    claim = Claim(Path(output.out)) if output.out else Claim.fresh(Path("runs"), spec.slug)
    execute(spec, claim, console=terminal.console(stderr=True), quiet=output.quiet)
    if output.quiet:
        print(claim.path)
    else:
        report(RunFolder(claim.path), terminal.console())
