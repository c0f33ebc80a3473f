"""`noiseward list`: the runs, batches and comparisons in a folder."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from noiseward.cli.printing import JsonFlag, print_json

__all__ = ["list_runs"]

COLUMNS = ("run", "kind", "state", "rows", "method", "prompt", "reward", "before", "best", "gain", "steps", "seconds")
TEXTS = ("run", "kind", "state", "method", "prompt", "reward")
NUMBERS = ("before", "best", "gain", "steps", "seconds")
DROP = ("seconds", "steps", "before", "kind", "reward", "prompt", "best", "method", "rows", "state", "gain")
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
    """List the runs, batches and comparisons in a folder, newest first; filtered and sorted if asked."""
    from noiseward.errors import ArgumentError, choices
    from noiseward.runs.store import find_runs

    if sort not in ORDERS:
        raise ArgumentError(f"cannot sort by '{sort}'; {choices(sort, ORDERS)}")
    from noiseward.sweep.overview import find_sweeps

    lines = [_read_line(run.path, _read_run) for run in find_runs(folder)]
    lines += [_read_line(path, _read_sweep) for path in find_sweeps(folder)]
    lines.sort(key=lambda line: line["time"], reverse=True)
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
        _print_lines(chosen[:limit], sweep=os.path.exists(folder / "batch.json"))
    else:
        which = "no matching runs" if lines else "no runs"
        print(f"{which} in {folder}" + ("" if lines else ": 'noiseward align' makes one"))


def _print_lines(lines: list[dict[str, Any]], *, sweep: bool) -> None:
    """Print a table in which names are whole, prompts and rewards as long as there is room, then how to continue.

    Kinds and rows are columns where not all are runs, methods where they are those of a comparison.
    """
    from noiseward import terminal
    from noiseward.cli.columns import print_table
    from noiseward.runs.summary import resume_command

    hidden = set[str]() if any(line["kind"] != "run" for line in lines) else {"kind", "rows"}
    hidden |= set() if sweep and len({line["method"] for line in lines}) > 1 else {"method"}
    console, shown = terminal.console(), [name for name in COLUMNS if name not in hidden]
    cells = [[_text(title, line) for title in shown] for line in lines]
    cut = [name for name in ("method", "prompt", "reward") if name not in hidden]
    print_table(shown, cells, console, left=TEXTS, cut=cut, drop=[name for name in DROP if name not in hidden])
    killed = [line["path"] for line in lines if line["state"] == "killed"]
    for path in killed[:COMMANDS]:
        console.print(f"killed; continue with: {resume_command(path)}", soft_wrap=True)
    if len(killed) > COMMANDS:
        console.print(f"{len(killed) - COMMANDS} more runs were killed: 'noiseward list --state killed'")


def _public(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the table as programs read it, with whole prompts."""
    plain = {name: line[name] for name in COLUMNS if name != "rows"}
    plain |= {"prompt": line["prompts"], "reward": line["rewards"], "total": line["rows"], "done": line["done"]}
    plain |= {"path": line["path"]}
    return {**plain, "error": line["prompt"] if line["state"] == "unreadable" else None}


def _finite(value: Any) -> Any:
    return None if value == -math.inf else value


def _read_line(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A line of the table, by column, and what it is filtered and sorted by."""
    from noiseward.errors import NoisewardError, describe_error, shorten

    line: dict[str, Any] = {"run": path.name, "path": path, "time": _find_time(path), "method": None, "done": 0}
    line |= dict.fromkeys(NUMBERS, -math.inf)
    try:
        line |= read(path)
    except NoisewardError as error:
        line |= {"kind": "run", "state": "unreadable", "rows": 0, "prompts": [], "rewards": [], "models": []}
        line |= {"prompt": describe_error(error), "reward": ""}
        return line | {"searched": {}}
    more = f" (+{len(line['prompts']) - 1})" if len(line["prompts"]) > 1 else ""
    line["prompt"] = (shorten(line["prompts"][0], 120) if line["prompts"] else "") + more
    line["reward"] = (" + " if line["kind"] == "run" else ", ").join(line["rewards"])
    searched = {name: "\n".join(line[f"{name}s"]) for name in ("prompt", "reward", "model")}
    return line | {"searched": searched}


def _find_time(path: Path) -> float:
    """When a run or a sweep was asked for."""
    for name in ("spec.json", "batch.json"):
        with contextlib.suppress(OSError):
            return os.stat(path / name).st_mtime
    return 0.0


def _read_run(path: Path) -> dict[str, Any]:
    from noiseward.rewards.shortfall import find_gain, is_met, met_reward
    from noiseward.runs.alive import find_state
    from noiseward.runs.record import read_record
    from noiseward.runs.store import RunFolder

    record = read_record(RunFolder(path))
    spec, status, steps = record.spec, record.status, record.steps
    state = find_state(status["state"], path)
    begun, best = (steps[0]["reward"] if steps else []), status.get("best", [])
    return {
        "kind": "run",
        "state": state,
        "rows": spec.rows,
        "done": spec.rows if state == "done" else 0,
        "method": spec.method,
        "prompts": list(spec.prompt),
        "rewards": list(spec.reward),
        "models": [spec.model],
        "before": _mean(map(met_reward, begun)),
        "best": _mean(map(met_reward, best)),
        "gain": _mean(map(find_gain, begun, best)),
        "unmet": [
            name for name, values in (("before", begun), ("best", best)) if values and not any(map(is_met, values))
        ],
        "steps": status.get("step", 0),
        "seconds": status.get("seconds", 0.0),
    }


def _read_sweep(path: Path) -> dict[str, Any]:
    from noiseward.sweep.overview import read_overview

    found = read_overview(path)
    lists = {f"{name}s": found.list(name) for name in ("prompt", "reward", "model")}
    return {"kind": found.kind, "state": found.state, "rows": found.rows, "done": found.done, **lists, **found.means}


def _mean(values: Iterable[float | None]) -> float:
    """Of the numbers that are known; minus infinity where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else -math.inf


def _text(title: str, line: dict[str, Any]) -> str:
    value = line[title]
    if title == "rows":
        return f"{line['done']}/{value}" if line["kind"] != "run" else str(value or "")
    if isinstance(value, str):
        return value
    if value is None or value == -math.inf:
        return "not met" if title in line.get("unmet", ()) else ""
    return f"{value:.0f}" if title in ("seconds", "steps") else f"{value:.4g}"
