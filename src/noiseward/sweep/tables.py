"""A comparison as files: `report.html`, which needs nothing else, `report.md`, `table.json`, and the plots."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.runs.files import replace_file
from noiseward.sweep import figures
from noiseward.sweep.comparison import CompareSpec
from noiseward.sweep.measure import Measured, Row

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["cells", "markdown", "protocol", "write"]

SHOWN = 4  # pictures per method

STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}
td:nth-child(2),th:nth-child(2){text-align:left}img{max-width:100%}.small img{width:96px;margin:2px}"""


def write(spec: CompareSpec, found: Measured, out: Path) -> None:
    """Write all files into a directory."""
    plain = json.dumps(_finite(dataclasses.asdict(found)), indent=1)
    replace_file(out / "table.json", lambda path: path.write_text(plain + "\n"))
    plots = {}
    if found.rows("1.0"):
        plots = {"reward": figures.reward(spec, found), "fidelity": figures.fidelity(spec, found)}
    for name, plot in plots.items():
        replace_file(out / f"{name}.png", lambda path, plot=plot: plot.save(path, format="png"))
    text = markdown(spec, found)
    replace_file(out / "report.md", lambda path: path.write_text(text, encoding="utf-8"))
    page = _page(spec, found, plots, out)
    replace_file(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))


def protocol(spec: CompareSpec) -> str:
    """What was done, in a sentence or two."""
    cost = (
        f"{spec.amount:g} denoiser calls per picture, a backward counting 2 and a recomputed forward 1 (decoding and "
        "rewards are not counted, but take their share of the seconds)"
        if spec.kind == "nfe"
        else f"{spec.amount:g} seconds per pack of up to 4 pictures, one pack at a time"
    )
    seeds = f"seeds {spec.seed} to {spec.seed + spec.seeds - 1}"
    count = len(spec.prompts)
    said = f"{count} prompt{'s' if count > 1 else ''} x {seeds}" if count else seeds
    return (
        f"Model {spec.model}; climbed: {' + '.join(spec.reward)}; {said}; {cost}. Every method starts from the same "
        "noise, and what counts is the best so far. Intervals are 95 %; methods share a rank unless one is better "
        "beyond doubt."
    )


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table."""
    held = list(rows[0].held) if rows else []
    diverse = any(row.diversity is not None for row in rows)
    head = ["rank", "method", "gain", "strict < 0.001", *(f"{name}, change" for name in held), "reward", "P(z)"]
    head += [*(["diversity"] if diverse else []), "peak MiB", "s"]
    lines = []
    for row in rows:
        line = [str(row.rank), row.method, str(row.gain), f"{row.suspect:.0%}"]
        line += [f"{now}, {change.mean:+.2g}" for now, change in row.held.values()]
        line += [str(row.reward), f"{row.probability.mean:.2g}"]
        line += [f"{row.diversity:.3g}" if row.diversity is not None else ""] if diverse else []
        line += ["not measured" if row.memory is None else f"{row.memory / 2**20:.0f}", f"{row.seconds:.1f}"]
        lines.append(line)
    return head, lines


def markdown(spec: CompareSpec, found: Measured) -> str:
    """The tables, and what does not apply."""
    parts = [protocol(spec), f"At the start the reward is {found.start}."]
    for share, rows in found.table.items():
        if rows:
            head, lines = cells(rows)
            table = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])
            parts.append(f"**{_amount(spec, share)}**\n\n{table}")
    parts += [f"`{method}` does not apply: {why}" for method, why in found.refused.items()]
    return "\n\n".join(parts) + "\n"


def _amount(spec: CompareSpec, share: str) -> str:
    amount = float(share) * spec.amount
    return f"{amount:g} denoiser calls" if spec.kind == "nfe" else f"{amount:g} seconds"


def _page(spec: CompareSpec, found: Measured, plots: dict[str, Image], out: Path) -> str:
    """One page, pictures inside."""
    parts = [f"<h1>Which method? {html.escape(' + '.join(spec.reward))}</h1>", f"<p>{html.escape(protocol(spec))}</p>"]
    parts.append(f"<p>At the start the reward is {found.start}.</p>")
    parts += [f'<img alt="{name}" src="{_inline(plot)}">' for name, plot in plots.items()]
    for share, rows in reversed(found.table.items()):
        if rows:
            head, lines = cells(rows)
            body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
            title = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            parts.append(f"<h2>{_amount(spec, share)}</h2><table><tr>{title}</tr>{body}</table>")
    for method, why in found.refused.items():
        parts.append(f"<p><b>{html.escape(method)}</b> does not apply: {html.escape(why)}</p>")
    shown = [(pack, seed) for pack in spec.packs() if pack.prompt == 0 for seed in pack.seeds][: SHOWN * 99]
    for row in found.rows("1.0"):
        files = [out / "pictures" / f"{pack.name}-{seed}.png" for pack, seed in shown if pack.method == row.method]
        images = "".join(f'<img alt="" src="{_file(file)}">' for file in files[:SHOWN] if file.exists())
        if images:
            parts.append(f'<h3>{html.escape(row.method)}</h3><div class="small">{images}</div>')
    content = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Compared</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}{content}</html>\n'


def _inline(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _file(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _finite(value: Any) -> Any:
    """Plain data without what JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
