"""Run a comparison, and write its report.

`report.html` needs nothing else to be read; `report.md` and `table.json` have the same tables, `index.csv` each row.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.errors import RunError
from noiseward.runs.files import read_json, replace_file
from noiseward.runs.page import draw_figure, draw_table, escape, inline, write_page
from noiseward.sweep import figures
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat, Engine, Local
from noiseward.sweep.measure import Measured, measure
from noiseward.sweep.outcomes import Outcome, describe_undone, find_outcomes, write_index
from noiseward.sweep.tables import describe, describe_start, format_budget, format_lines, markdown

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["compare", "read_refused", "report"]

TABLE = "table.json"
SHOWN = 4  # images per method


def compare(
    comparison: Comparison,
    out: Path,
    *,
    engine: Engine | None = None,
    view: Callable[[Iterable[Beat]], Iterable[Beat]] = iter,
) -> Measured:
    """Run what is not done yet, and write the report.

    Arguments:
        comparison: what to compare.
        out: a directory: new, empty, or of the same comparison, perhaps with fewer methods, prompts or seeds.
        engine: where packs run; default: this process.
        view: what beats pass on their way.

    Raises:
        RunError: the directory holds something else, or cannot be written; or a run failed or was interrupted.
    """
    comparison = comparison.in_order_of(out)
    sweep = comparison.begin(out)
    ended = {beat.pack: beat for beat in view(sweep.run(engine or Local()))}
    measured, outcomes = report(comparison, sweep, ended)
    if undone := describe_undone(outcomes):
        raise RunError(undone)
    return measured


def report(
    comparison: Comparison, sweep: Sweep, ended: Mapping[str, Beat] | None = None
) -> tuple[Measured, list[Outcome]]:
    """Write the report of a comparison; returns its tables and the outcomes.

    Arguments:
        comparison: what was compared.
        sweep: its directory.
        ended: the last beats of its packs, by name.
    """
    found = find_outcomes(sweep, ended)
    outcomes = [one for _, _, some in found for one in some]
    refused = {str(pack.spec.method): some[0].error for pack, _, some in found if some[0].state == "refused"}
    results = [(pack, state.measurements) for pack, state, _ in found if state.measurements is not None]
    measured = measure(
        results, {**refused, **comparison.refused}, kind=comparison.kind, amount=comparison.amount
    )  # fmt: skip
    out, lines = sweep.out, measured.rows("1.0")
    write_index(outcomes, out / "index.csv")
    plain = json.dumps(_finite(dataclasses.asdict(measured)), indent=1)
    replace_file(out / TABLE, lambda path: path.write_text(plain + "\n"))
    plots = {name: draw(comparison, measured) for name, draw in figures.PLOTS.items()} if lines else {}
    for name, plot in plots.items():
        replace_file(out / f"{name}.png", lambda path, plot=plot: plot.save(path, format="png"))
    replace_file(out / "report.md", lambda path: path.write_text(markdown(comparison, measured), encoding="utf-8"))
    images = {
        line.method: [
            (out / one.run / "best" / f"{one.row:02d}.png", one.caption)
            for pack, _, some in found if pack.spec.method == line.method for one in some if one.state == "done"
        ][:SHOWN]
        for line in lines
    }  # fmt: skip
    title = f"Which method? {' + '.join(comparison.base.reward)}"
    write_page(out / "report.html", title, _page_parts(comparison, measured, plots, images))
    return measured, outcomes


def read_refused(out: Path) -> dict[str, str]:
    """Why methods do not apply, as the report of a comparison says it; nothing where there is no report yet."""
    try:
        refused = read_json(out / TABLE).get("refused", {})
    except RunError:
        return {}
    return refused if isinstance(refused, dict) else {}


def _page_parts(
    comparison: Comparison,
    measured: Measured,
    plots: Mapping[str, Image],
    images: Mapping[str, Sequence[tuple[Path, str]]],
) -> list[str]:
    """The page, images inside."""
    parts = [f"<p>{escape(describe(comparison))}</p>", f"<p>{describe_start(measured)}</p>"]
    parts += [f'<img alt="{name}" src="{inline(plot)}">' for name, plot in plots.items()]
    for share, lines in reversed(measured.table.items()):
        if lines:
            head, table = format_lines(lines)
            cells = [[escape(cell) for cell in line] for line in table]
            parts += [f"<h2>{format_budget(comparison, share)}</h2>", draw_table([*map(escape, head)], cells)]
    if measured.note:
        parts.append(f"<p>{escape(measured.note)}.</p>")
    for method, why in measured.refused.items():
        parts.append(f"<p><b>{escape(method)}</b> does not apply: {escape(why)}</p>")
    for method, files in images.items():
        row = "".join(draw_figure(inline(file), caption) for file, caption in files if file.exists())
        parts += [f'<h3>{escape(method)}</h3><div class="row">{row}</div>'] if row else []
    return parts


def _finite(value: Any) -> Any:
    """Plain data with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
