"""`noiseward list`: the runs in a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiseward.cli.printing import JsonFlag, print_json

if TYPE_CHECKING:
    from noiseward.runs.store import RunFolder

__all__ = ["list_runs"]

COLUMNS = ("run", "state", "prompt", "reward", "before", "best", "gain", "steps", "seconds")
TEXTS = ("run", "state", "prompt", "reward")
ORDERS = ("newest", "name", "gain", "best", "seconds", "steps")
COMMANDS = 3  # resume commands that are printed at most


def list_runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that holds the runs, or a batch directory.")
    ] = Path("runs"),
    state: Annotated[str | None, typer.Option(help="Only runs that are done, failed, running, killed, ...")] = None,
    prompt: Annotated[str | None, typer.Option(help="Only runs with this in a prompt.")] = None,
    reward: Annotated[str | None, typer.Option(help="Only runs with this in a reward.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs with this in the model.")] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(ORDERS)}; largest first, names first to last.")] = "newest",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    json: JsonFlag = False,
) -> None:
    """List the runs in a folder, newest first; filtered and sorted if asked."""
    from noiseward.errors import ArgumentError, choices
    from noiseward.runs.store import find_runs

    if sort not in ORDERS:
        raise ArgumentError(f"cannot sort by '{sort}'; {choices(sort, ORDERS)}")
    lines = [_line(run) for run in find_runs(folder)]
    filters = {"prompt": prompt, "reward": reward, "model": model}
    chosen = [
        line
        for line in lines
        if state in (None, line["state"])
        and all(
            text is None or text.lower() in line["searched"].get(name, "").lower() for name, text in filters.items()
        )
    ]
    if sort == "name":
        chosen.sort(key=lambda line: line["run"])
    elif sort != "newest":
        chosen.sort(key=lambda line: line[sort], reverse=True)
    if reverse:
        chosen.reverse()
    if json:
        print_json([{name: _finite(part) for name, part in _public(line).items()} for line in chosen[:limit]])
    elif chosen:
        _print_lines(chosen[:limit])
    else:
        which = "no matching runs" if lines else "no runs"
        print(f"{which} in {folder}" + ("" if lines else ": 'noiseward align' makes one"))


def _print_lines(lines: list[dict[str, Any]]) -> None:
    """Print a table in which names are whole, prompts and rewards as long as there is room, then how to continue."""
    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.runs.summary import resume_command

    console = terminal.console()
    cells = [[_text(title, line[title]) for title in COLUMNS] for line in lines]
    print_table(COLUMNS, cells, console, left=TEXTS, cut=("prompt", "reward"), drop=("seconds", "steps", "before"))
    killed = [line["path"] for line in lines if line["state"] == "killed"]
    for path in killed[:COMMANDS]:
        console.print(f"killed; continue with: {resume_command(path)}", soft_wrap=True)
    if len(killed) > COMMANDS:
        console.print(f"{len(killed) - COMMANDS} more runs were killed: 'noiseward list --state killed'")


def _public(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the table as programs read it, with whole prompts."""
    error = line["prompt"] if line["state"] == "unreadable" else None
    return {**{name: line[name] for name in COLUMNS}, "prompt": line["prompts"], "path": line["path"], "error": error}


def _finite(value: Any) -> Any:
    return None if value == -math.inf else value


def _line(run: RunFolder) -> dict[str, Any]:
    """One run, by column."""
    from noiseward.errors import NoisewardError, describe_error, shorten
    from noiseward.runs.alive import find_state
    from noiseward.runs.record import read_record as read

    try:
        record = read(run)
        spec, status, steps = record.spec, record.status, record.steps
        before = _mean(steps[0]["reward"]) if steps else -math.inf
        best = _mean(status["best"]) if "best" in status else -math.inf
        more = f" (+{len(spec.prompt) - 1})" if len(spec.prompt) > 1 else ""
        return {
            "run": run.path.name,
            "path": run.path,
            "state": find_state(status["state"], run.path),
            "prompt": (shorten(spec.prompt[0], 120) if spec.prompt else "") + more,
            "prompts": list(spec.prompt),
            "reward": " + ".join(spec.reward),
            "before": before,
            "best": best,
            "gain": best - before if math.isfinite(before) else -math.inf,
            "steps": status.get("step", 0),
            "seconds": status.get("seconds", 0.0),
            "searched": {"prompt": "\n".join(spec.prompt), "reward": "\n".join(spec.reward), "model": spec.model},
        }
    except NoisewardError as error:
        numbers = dict.fromkeys(("before", "best", "gain", "steps", "seconds"), -math.inf)
        return {
            "run": run.path.name, "path": run.path, "state": "unreadable", "prompt": describe_error(error),
            "prompts": [], "reward": "", "searched": {}, **numbers
        }  # fmt: skip


def _mean(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return -math.inf if math.isnan(mean) else mean


def _text(title: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value == -math.inf:
        return ""
    return f"{value:.0f}" if title in ("seconds", "steps") else f"{value:.4g}"
