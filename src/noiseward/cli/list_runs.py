"""`noiseward list`: the runs in a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from noiseward.runs import RunFolder

__all__ = ["list_runs"]

COLUMNS = ("run", "state", "prompt", "reward", "before", "best", "gain", "steps", "seconds")
ORDERS = ("newest", "name", "gain", "best", "seconds", "steps")


def list_runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds the runs, or a batch directory.")] = Path(
        "runs"
    ),
    state: Annotated[str | None, typer.Option(help="Only runs that are done, failed, running, killed, ...")] = None,
    prompt: Annotated[str | None, typer.Option(help="Only runs with this in a prompt.")] = None,
    reward: Annotated[str | None, typer.Option(help="Only runs with this in a reward.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs with this in the model.")] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(ORDERS)}; largest first, names first to last.")] = "newest",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
) -> None:
    """List the runs in a folder, newest first; filtered and sorted if asked."""
    from rich.table import Table

    from noiseward import terminal
    from noiseward.errors import ArgumentError, choices
    from noiseward.runs import find

    if sort not in ORDERS:
        raise ArgumentError(f"cannot sort by '{sort}'; {choices(sort, ORDERS)}")
    lines = [_line(run) for run in find(folder)]
    wanted = {"prompt": prompt, "reward": reward, "model": model}
    chosen = [
        line
        for line in lines
        if state in (None, line["state"])
        and all(text is None or text.lower() in line["searched"].get(name, "").lower() for name, text in wanted.items())
    ]
    if sort == "name":
        chosen.sort(key=lambda line: line["run"])
    elif sort != "newest":
        chosen.sort(key=lambda line: line[sort], reverse=True)
    if reverse:
        chosen.reverse()
    table = Table(box=None, header_style="bold")
    for title in COLUMNS:
        table.add_column(title, justify="left" if title in ("run", "state", "prompt", "reward") else "right")
    for line in chosen[:limit]:
        table.add_row(*(_text(title, line[title]) for title in COLUMNS))
    if chosen:
        terminal.console().print(table)
    else:
        which = "no such runs" if lines else "no runs"
        print(f"{which} in {folder}" + ("" if lines else ": 'noiseward align' makes one"))


def _line(run: RunFolder) -> dict[str, Any]:
    """One run, by column."""
    from noiseward.errors import NoisewardError, describe_error
    from noiseward.runs.alive import really
    from noiseward.runs.consistency import told as read

    try:
        said = read(run)
        spec, status, steps = said.spec, said.status, said.steps
        before = _mean(steps[0]["reward"]) if steps else -math.inf
        best = _mean(status["best"]) if "best" in status else -math.inf
        more = f" (+{len(spec.prompt) - 1})" if len(spec.prompt) > 1 else ""
        return {
            "run": run.path.name,
            "state": really(status["state"], run.path),
            "prompt": (spec.prompt[0] if spec.prompt else "") + more,
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
            "run": run.path.name, "state": "unreadable", "prompt": describe_error(error), "reward": "", "searched": {},
            **numbers
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
