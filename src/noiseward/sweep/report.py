"""The report of a batch: `index.csv`, `contact.png` and `report.html`, which shows the images next to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from noiseward.loop.describe import SUSPECT
from noiseward.rewards.shortfall import describe_reward
from noiseward.runs.answers import find_reasons, read_answers
from noiseward.runs.page import draw_table, escape, write_page
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat
from noiseward.sweep.outcomes import Outcome, count_states, find_outcomes, write_contact, write_index

__all__ = ["report"]


def report(sweep: Sweep, ended: Mapping[str, Beat] | None = None) -> list[Outcome]:
    """Write the report of a batch; returns the outcomes. The arguments are those of `find_outcomes`."""
    outcomes = [one for _, _, some in find_outcomes(sweep, ended) for one in some]
    write_index(outcomes, sweep.out / "index.csv")
    write_contact(outcomes, sweep.out, sweep.out / "contact.png")
    head = ("row", "before", "after", "reward", "P(z)", "strict", "P(image)", "ended")
    table = draw_table(head, [_cells(one, sweep.out) for one in outcomes], [_values(one) for one in outcomes])
    write_page(sweep.out / "report.html", sweep.out.name, [f"<p>{_summarize(outcomes)}.</p>", table])
    return outcomes


def _summarize(outcomes: Sequence[Outcome]) -> str:
    done = [one for one in outcomes if one.state == "done"]
    gains = [one.gain for one in done if one.gain is not None and math.isfinite(one.gain)]
    parts = [f"{len(outcomes)} rows: {count_states(outcomes)}"]
    if gains:
        parts.append(f"reward +{sum(gains) / len(gains):.4g} on average, from {min(gains):+.4g} to {max(gains):+.4g}")
    suspects = sum(one.strict is not None and one.strict < SUSPECT for one in done)
    if suspects:
        parts.append(f"the noise of {suspects} is out of distribution (strict P(z) below {SUSPECT:g})")
    return ". ".join(parts)


def _cells(one: Outcome, out: Path) -> list[str]:
    cells = [
        f"<b>{escape(one.id)}</b> <span class=small>seed {one.seed}</span><br>{escape(one.prompt)}"
        f"<br><span class=small>{escape(one.reward)}</span>"
    ]
    for which in ("initial", "best"):
        source = f"{one.run}/{which}/{one.row:02d}.png"
        cells.append(f'<img loading=lazy src="{source}" alt="{which}">' if (out / source).exists() else "")
    cells.append(_change(one))
    strict = "" if one.strict is None else f"{one.strict:.2g}"
    cells.append("" if one.probability is None else f"{one.probability:.2g}")
    cells.append(f"<span class=bad>{strict}</span>" if one.strict is not None and one.strict < SUSPECT else strict)
    cells.append("" if one.image is None else f"{one.image:.2g}")
    error = f"<br><span class=bad>{escape(one.error)}</span>" if one.error else ""
    said = find_reasons(read_answers(out / one.run), out / one.run / "best" / f"{one.row:02d}.png")
    reasons = "".join(f"<br><span class=small>{escape(reason)}</span>" for reason in said)
    return [*cells, f"{one.ended if one.state == 'done' else one.state}{error}{reasons}"]


def _values(one: Outcome) -> list[str | float | None]:
    """What the columns are sorted by."""
    state = one.ended if one.state == "done" else one.state
    return [one.id, one.before, one.best, one.gain, one.probability, one.strict, one.image, state]


def _change(one: Outcome) -> str:
    if one.step is None:
        return ""
    missing = f"<br><span class=bad>{escape(one.missing)}</span>" if one.missing else ""
    return f"{describe_reward(one.before)} &rarr; <b>{describe_reward(one.best)}</b>{missing}"
