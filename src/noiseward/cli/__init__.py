"""The command line: `noiseward align "a duck" --reward brightness`.

Commands import what they need when they run, so that `noiseward --help` does not wait for torch.
"""

from __future__ import annotations

import functools
import io
import sys
import warnings
from typing import Any, NoReturn, TextIO

import typer

from noiseward import __version__
from noiseward.cli import (
    align,
    batch,
    compare,
    doctor,
    ending,
    export,
    list_runs,
    methods,
    models,
    render,
    replay,
    resume,
    rewards,
    schema,
    serve_reward,
    show,
    studio,
)
from noiseward.cli.help import Command, Group
from noiseward.errors import ArgumentError, NoisewardError, NoisewardWarning, describe_error, shorten
from noiseward.terminal import flush
from noiseward.user_code import InterruptListener, StandardStreams

__all__ = ["app", "command", "main"]

app = typer.Typer(
    name="noiseward",
    help="Align any diffusion model with any reward while it generates, by optimizing its noise.",
    no_args_is_help=True,
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("align", cls=Command)(align.align)
app.command("batch", cls=Command)(batch.batch)
app.command("compare", cls=Command)(compare.compare)
app.command("resume", cls=Command)(resume.resume)
app.command("replay", cls=Command)(replay.replay)
app.command("render", cls=Command)(render.render)
app.command("export", cls=Command)(export.export)
app.command("show", cls=Command)(show.show)
app.command("list", cls=Command)(list_runs.list_runs)
app.command("models", cls=Command)(models.models)
app.command("methods", cls=Command)(methods.methods)
app.add_typer(rewards.app, name="rewards")
app.command("serve-reward", cls=Command)(serve_reward.serve_reward)
app.command("studio", cls=Command)(studio.studio)
app.command("doctor", cls=Command)(doctor.doctor)
app.command("schema", cls=Command)(schema.schema)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the command itself."""
    if version:
        print(f"noiseward {__version__}")
        raise typer.Exit


def command() -> NoReturn:
    """Run the command line and end the process: see `ending`."""
    with ending.honest():
        status = _status()
    ending.leave(status)


def main() -> NoReturn:
    """Run the command line; raises `SystemExit` with its status."""
    sys.exit(_status())


def _status() -> int:
    """Run the command line; gives the exit status.

    0 is done, 1 failed, 2 a wrong argument, 130 interrupted by Ctrl-C; SIGTERM or SIGHUP give 128 and their number. An
    error of this library is one line on standard error. A run that was interrupted keeps its best.
    """
    warnings.showwarning = functools.partial(_show, set[str]())
    stderr = sys.stderr
    StandardStreams.saved = StandardStreams.saved or StandardStreams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # paths and prompts may hold what cannot be encoded
    heard, status, before = InterruptListener(insist=False), 0, len(_signals())
    try:
        with heard:
            try:
                app()
            except SystemExit:  # it ended as it should
                flush()
                raise
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        return 1
    except (NoisewardError, MemoryError, OSError) as error:
        if not heard.interrupted:
            _say(_describe(error), stderr)
            return 2 if isinstance(error, ArgumentError) else 1
        status = 130
    except Exception:
        if not heard.interrupted:  # otherwise foreign code turned Ctrl-C into this
            raise
        status = 130
    ended = _signals()[before:]
    if status == 130 or ended:
        _say("; ".join(["interrupted", *ending.take_advice()]), stderr)
    return 128 + ended[-1] if ended else status


def _signals() -> list[int]:
    """The signals that runs have heard."""
    runs: Any = sys.modules.get("noiseward.runs.interrupt")
    return runs.Interruptible.heard if runs else []


def _describe(error: BaseException) -> str:
    """An error in one line; one of the system with what it was about."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and not _can_print():
            return f"standard output could not be written ({error.strerror}); free space, or send it elsewhere"
        about = f"{shorten(str(error.filename), 300)}: " if error.filename is not None else ""
        return f"{about}{error.strerror}; give another path, or correct what is there"
    return describe_error(error)


def _can_print() -> bool:
    """Whether a line can be printed: what failed does not say which file it was."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _say(text: str, stream: TextIO | None = None) -> None:
    """A line on standard error, as it is or as it was."""
    try:
        print(f"noiseward: {text}", file=stream or sys.stderr, flush=True)
    except (OSError, ValueError):
        if StandardStreams.saved is not None:
            StandardStreams.saved.write_error(f"noiseward: {text}")


def _show(known: set[str], message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """A warning of this library as one line, once; others, which its user can do nothing about, not at all."""
    if issubclass(category, NoisewardWarning) and str(message) not in known:
        known.add(str(message))
        _say(shorten(str(message)))
