"""What the page shows of a run, as HTML; all text that comes from a user or a file is escaped."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from noiseward.images.preview import shrink, to_data_url
from noiseward.loop.budget import Status
from noiseward.loop.describe import describe_peak, describe_stall
from noiseward.loop.hacking import find_hacking
from noiseward.loop.span import format_span
from noiseward.rewards.shortfall import met_reward
from noiseward.runs.page import escape
from noiseward.studio.live import Snapshot
from noiseward.studio.places import Places
from noiseward.studio.words import ENDED, NUMBERS, STATES, describe_numbers, say_state

__all__ = [
    "draw_card", "draw_empty", "draw_error", "draw_frame", "draw_note", "draw_plot", "draw_plots", "draw_run",
    "draw_state", "draw_table", "to_address",
]  # fmt: skip

WIDE, HIGH, LEFT, BOTTOM = 460, 150, 48, 18
COLORS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#eab308", "#64748b")
SHOWN = 16  # rows at most
FIRST = "It explores first, and draws images to compare with; how long the rest takes is known after a few steps."
HIGHER = "Some steps scored higher with images unlike the model's own. The best of the others was kept."
STILL = "At some steps the reward did not say what to change, so the image stayed as it was."
FOOLED = "The reward was perhaps being fooled: watched rewards fell while it rose. Look at the frames before that."


def to_address(places: Places, file: Path, version: Any = "") -> str:
    """The address of a file in the folder of runs, relative to the page.

    Example:
        >>> to_address(Places(Path("runs")), Path("runs/a duck/best/00.png"), 3)
        'files/a%20duck/best/00.png?v=3'
    """
    path = urllib.parse.quote(file.relative_to(places.runs).as_posix())
    return f"files/{path}?v={version}" if version != "" else f"files/{path}"


def draw_empty(text: str) -> str:
    """What to do first, where there is nothing to show."""
    return f'<div class="nw-empty">{escape(text)}</div>'


def draw_error(error: Exception) -> str:
    """An error as the page shows it, in the words of the command line."""
    return f'<p class="nw-error" role="alert">{escape(str(error))}</p>'


def draw_note(text: str) -> str:
    """What was done, or is to be known; empty for nothing."""
    return f'<span class="nw-small" role="status">{escape(text)}</span>' if text else ""


def draw_run(snapshot: Snapshot, places: Places) -> str:
    """A run: its state, the images of each row, and plots."""
    parts = [_head(snapshot)]
    if snapshot.error:
        parts.append(f'<p class="nw-error" role="alert">{escape(snapshot.error)}</p>')
    parts += [f'<p class="nw-note">{escape(remark)}</p>' for remark in snapshot.remarks]
    if snapshot.steps:
        rows = range(min(snapshot.rows, SHOWN))
        parts += [_row(snapshot, places, row) for row in rows]
        if snapshot.rows > SHOWN:
            parts.append(f"<p class=nw-small>{snapshot.rows - SHOWN} more rows: open the run's page</p>")
    elif snapshot.is_open:
        parts.append('<div class="nw-rows"><div class="nw-wait"></div></div>')
    return f'<div class="nw-run" data-step="{len(snapshot.steps)}" data-state="{snapshot.state}">{"".join(parts)}</div>'


def _head(snapshot: Snapshot) -> str:
    spec, last = snapshot.spec, snapshot.steps[-1] if snapshot.steps else None
    facts = [draw_state(snapshot.state)]
    if last is not None:
        limit = spec.limits["steps"] if spec else None
        facts.append(f"step {last['index']:,}" + (f" of {limit:,}" if limit is not None else ""))
        spent = format_span(last["seconds"])
        facts.append(f"{spent} so far" if snapshot.is_open else f"took {spent}")
    if (left := snapshot.seconds_left) is not None:
        facts.append(f"at most about {format_span(math.ceil(left))} left")
    elif snapshot.state == "running":
        facts.append(f'<abbr title="{escape(FIRST)}">the first steps take longest</abbr>')
    title = escape(" + ".join(spec.prompt) if spec and spec.prompt else snapshot.path.name)
    asked = ""
    if spec is not None:
        method = spec.method or "auto"
        asked = f"more {escape(' + '.join(spec.reward))} · model {escape(spec.model)} · "
        asked += f'<abbr title="{escape(method)}">method {escape(method.partition(":")[0])}</abbr>'
    bar = ""
    if last is not None and spec is not None and spec.limits["steps"]:
        part = min(last["index"] / spec.limits["steps"], 1.0)
        bar = f'<div class="nw-bar"><div style="width:{100 * part:.1f}%"></div></div>'
    return (
        f'<div class="nw-head"><strong>{title}</strong> <span class="nw-small">{asked}</span>'
        f'<div role="status">{" · ".join(facts)}</div>{bar}</div>'
    )


def _row(snapshot: Snapshot, places: Places, row: int) -> str:
    path, last = snapshot.path, snapshot.steps[-1]
    live, name = places.live(path), f"{row:02d}.png"
    best, found = snapshot.best(row)
    at_best = snapshot.at(found) if found is not None else last
    images = [("Start", path / "initial" / name, "start", _numbers(snapshot.steps[0], row))]
    if snapshot.is_open:
        images.append(("Now", live / f"now-{name}", last["index"], _numbers(last, row)))
    own = live / f"best-{name}" if snapshot.is_open else path / "best" / name
    images.append((f"Best, step {found}", own, f"{found}{snapshot.state}", _numbers(at_best, row)))
    figures = "".join(
        _figure(to_address(places, file, version), f"{title} of {snapshot.title(row)}", f"<b>{title}</b><br>{numbers}")
        for title, file, version, numbers in images
        if file.exists()
    )
    remarks = "".join(_remark(plain, exact) for plain, exact in _remarks(snapshot, row))
    return f'<div class="nw-row"><div class="nw-small">{escape(snapshot.title(row))}</div>{figures}{remarks}</div>'


def _figure(address: str, name: str, caption: str) -> str:
    """An image with a caption in HTML."""
    return f'<figure><img src="{address}" alt="{escape(name)}"><figcaption>{caption}</figcaption></figure>'


def _remark(plain: str, exact: str) -> str:
    """A sentence, and the exact one of the command line for a reader who opens it."""
    return f'<details class="nw-small"><summary>{escape(plain)}</summary>{escape(exact)}</details>'


def _remarks(snapshot: Snapshot, row: int) -> list[tuple[str, str]]:
    """Why a row ended, and what is to be known of its best: in plain words, and exactly."""
    if snapshot.is_open:
        return []
    found, ended = [], snapshot.status.get("rows")
    if ended and ended[row] in Status.__members__:
        status = Status[ended[row]]
        found.append((ENDED[status], f"{status.name.lower()}: {status.value}"))
    hacking = find_hacking(snapshot.steps, row)
    others = (
        (HIGHER, describe_peak(snapshot.steps, row)),
        (STILL, describe_stall(snapshot.steps, row)),
        (FOOLED, str(hacking) if hacking else None),
    )
    return found + [(plain, exact) for plain, exact in others if exact]


def draw_state(state: str) -> str:
    """A state of a run in a word or two, with what it means."""
    meaning = STATES.get(state, ("", ""))[1]
    return f'<span class="nw-state nw-{escape(state)}" title="{escape(meaning)}">{escape(say_state(state))}</span>'


def draw_frame(snapshot: Snapshot, places: Places, index: int, row: int = 0) -> str:
    """The image of a row at a step that was kept, with its numbers."""
    file = snapshot.path / "frames" / f"{index:05d}-{row:02d}.png"
    figures = _figure(to_address(places, file), f"step {index}", _numbers(snapshot.at(index), row))
    return f'<div class="nw-small">step {index}</div><div class="nw-row" data-frame="{index}">{figures}</div>'


def _numbers(step: Mapping[str, Any], row: int) -> str:
    """The numbers of a row at a step."""
    return "<br>".join(
        f'<abbr title="{escape(meaning)}">{escape(name)}</abbr> <b>{_show(value)}</b>'
        for name, value, meaning in describe_numbers(step, row)
    )


def _show(value: Any) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def draw_plots(snapshot: Snapshot) -> str:
    """Rewards and probabilities against steps."""
    if not snapshot.steps:
        return ""
    rows, steps = range(min(snapshot.rows, len(COLORS))), snapshot.steps
    index = [step["index"] for step in steps]
    rewards = {snapshot.title(row): [met_reward(step["reward"][row]) for step in steps] for row in rows}
    plots = [draw_plot("Reward", index, rewards, meaning=NUMBERS["reward"])]
    noises = {snapshot.title(row): [step["probability"][row] for step in steps] for row in rows}
    plots.append(draw_plot("Typical noise", index, noises, least=0, meaning=NUMBERS["typical noise"]))
    tested = [step for step in steps if any((value or -1) >= 0 for value in step.get("image") or ())]
    if len(tested) > 1:
        values = {snapshot.title(row): [_tested(step["image"][row]) for step in tested] for row in rows}
        at = [step["index"] for step in tested]
        plots.append(draw_plot("Typical image", at, values, least=0, meaning=NUMBERS["typical image"]))
    watched = [step for step in steps if step.get("watched")]
    for name in watched[0]["watched"] if watched else ():
        values = {
            snapshot.title(row): [step["watched"].get(name, [None] * snapshot.rows)[row] for step in watched]
            for row in rows
        }
        at = [step["index"] for step in watched]
        plots.append(draw_plot(f"Watched: {name}", at, values, meaning=NUMBERS["watched"]))
    return f'<div class="nw-plots">{"".join(plots)}</div>'


def _tested(value: Any) -> float | None:
    return None if value is None or value < 0 else value


def draw_plot(
    title: str, index: Sequence[int], lines: Mapping[str, Sequence[float | None]], *, least: float | None = None,
    legend: bool = False, meaning: str = "",
) -> str:  # fmt: skip
    """Lines against steps as SVG, in the colors of the page.

    Arguments:
        title: above.
        index: the steps.
        lines: values by name; what is None or not finite is left out.
        least: the lower end of the axis; None for the smallest value.
        legend: whether the names are written below, in the colors of their lines.
        meaning: of the values, in a sentence.
    """
    values = [v for line in lines.values() for v in line if v is not None and math.isfinite(v)]
    if not values:
        return ""
    low, high = min(values) if least is None else least, max(values)
    high = high if high > low else low + max(abs(low), 1e-6) * 0.1
    last = max(index[-1], 1)

    def place(k: float, v: float) -> str:
        x = LEFT + (WIDE - LEFT - 6) * k / last
        y = 8 + (HIGH - BOTTOM - 8) * (high - v) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn = []
    for color, (name, line) in zip(COLORS, lines.items(), strict=False):
        points = [place(k, v) for k, v in zip(index, line, strict=True) if v is not None and math.isfinite(v)]
        label = f"<title>{escape(name)}</title>"
        if len(points) == 1:
            x, y = points[0].split(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}">{label}</circle>')
        else:
            drawn.append(f'<polyline points="{" ".join(points)}" class="nw-line" stroke="{color}">{label}</polyline>')
    axis = (
        f'<line x1="{LEFT}" y1="8" x2="{LEFT}" y2="{HIGH - BOTTOM}" class="nw-axis"/>'
        f'<line x1="{LEFT}" y1="{HIGH - BOTTOM}" x2="{WIDE - 6}" y2="{HIGH - BOTTOM}" class="nw-axis"/>'
        f'<text x="{LEFT - 5}" y="14" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 5}" y="{HIGH - BOTTOM}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HIGH - 3}">0</text>'
        f'<text x="{WIDE - 6}" y="{HIGH - 3}" text-anchor="end">step {index[-1]}</text>'
    )
    svg = f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(title)}">{axis}{"".join(drawn)}</svg>'
    caption = f'<abbr title="{escape(meaning)}">{escape(title)}</abbr>' if meaning else escape(title)
    named = zip(COLORS, lines, strict=False) if legend else ()
    names = " ".join(f'<span class="nw-key" style="--c:{color}">{escape(name)}</span>' for color, name in named)
    return f'<figure class="nw-plot"><figcaption>{caption}</figcaption>{svg}{names}</figure>'


def draw_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of text, numbers, and images that are given by their paths."""

    def cell(value: Any) -> str:
        if isinstance(value, Path):
            with Image.open(value) as image:
                small = to_data_url(shrink(image.convert("RGB"), 96))
            return f'<img src="{small}" alt="{escape(value.name)}"><br>{escape(value.name)}'
        return escape(_show(value) if isinstance(value, float) or value is None else value)

    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f'<div class="nw-wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def draw_card(
    name: str, image: str | None, lines: Sequence[str], *, chosen: bool = False, tags: Sequence[str] = ()
) -> str:
    """A run in the gallery."""
    shown = f'<img loading=lazy src="{escape(image)}" alt="">' if image else '<div class="nw-blank"></div>'
    marks = "".join(f'<span class="nw-tag">{escape(tag)}</span>' for tag in tags)
    text = "<br>".join(escape(line) for line in lines)
    pressed = "true" if chosen else "false"
    return (
        f'<button class="nw-card" data-name="{escape(name)}" aria-pressed="{pressed}">{shown}'
        f"<span><b>{escape(name)}</b><br>{text}{marks}</span></button>"
    )
