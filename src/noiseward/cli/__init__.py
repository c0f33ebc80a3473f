"""The command line: `noiseward align "a duck" --reward brightness`.

Commands import what they need when they run, so that `noiseward --help` does not wait for torch.
"""

from __future__ import annotations

import sys
import warnings

import typer

from noiseward import __version__
from noiseward.cli import (
    align,
    batch,
    compare,
    doctor,
    export,
    list_runs,
    models,
    replay,
    resume,
    rewards,
    serve_reward,
    show,
)
from noiseward.errors import NoisewardError, NoisewardWarning

__all__ = ["app", "main"]

app = typer.Typer(
    name="noiseward",
    help="Align any diffusion model with any reward while it generates, by moving the sampler's own noise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("align")(align.align)
app.command("batch")(batch.batch)
app.command("compare")(compare.compare)
app.command("resume")(resume.resume)
app.command("replay")(replay.replay)
app.command("export")(export.export)
app.command("show")(show.show)
app.command("list")(list_runs.list_runs)
app.command("models")(models.models)
app.add_typer(rewards.app, name="rewards")
app.command("serve-reward")(serve_reward.serve_reward)
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the command itself."""
    if version:
        print(f"noiseward {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of this library is one line on standard error and exit status 1."""
    warnings.showwarning = _show
    try:
        app()
    except NoisewardError as error:
        print(f"noiseward: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


def _show(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """A warning of this library as one line; others, which its user can do nothing about, not at all."""
    if issubclass(category, NoisewardWarning):
        print(f"noiseward: {message}", file=sys.stderr)
