"""What came out of a batch: one outcome per row, as a table, a contact sheet, and a page to look at."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from noiseward.images import TILE, draw_grid, enlarge
from noiseward.noise.typicality import SUSPECT
from noiseward.runs.files import replace_file
from noiseward.sweep.directory import Batch
from noiseward.sweep.engine import look
from noiseward.sweep.packs import Pack

__all__ = ["Outcome", "contact", "index", "outcomes", "page", "report"]

PAIRS = 256  # of before and after on a contact sheet at most
LINE = 4  # pairs side by side


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One row of a batch: the columns of `index.csv`.

    Attributes:
        id, prompt, seed, reward: what was asked.
        state: `done`, `failed`, `interrupted`, `running`, or `waiting`.
        before, best, gain: of the reward.
        probability, strict: P(z) and the strict probability of the best noise.
        step: the one the best was found at.
        ended: why the row stopped.
        run, row: the run directory, from the batch's own, and the row in it.
        error: why it failed.
    """

    id: str
    prompt: str
    seed: int
    reward: str
    state: str
    before: float | None = None
    best: float | None = None
    gain: float | None = None
    probability: float | None = None
    strict: float | None = None
    step: int | None = None
    ended: str = ""
    run: str = ""
    row: int = 0
    error: str = ""


def outcomes(batch: Batch, errors: Mapping[str, str] | None = None) -> list[Outcome]:
    """Every row of a batch, in the order of its packs.

    Arguments:
        batch: whose directories are read; one that is damaged is an outcome too.
        errors: why packs failed, by name, where their directory does not say so.
    """
    found = []
    for pack in batch.parts():
        found += _of(pack, batch.out, (errors or {}).get(pack.name, ""))
    return found


def _of(pack: Pack, out: Path, error: str) -> list[Outcome]:
    found = look(pack, out, closely=True)
    now, said = found.state, found.record
    if now in ("waiting", "running") and error:
        now = "failed"
    reward, error = " + ".join(pack.spec.reward), error or found.error
    plain = [
        Outcome(name, prompt, seed, reward, now, run=f"packs/{pack.name}", row=row, error=error)
        for row, (name, prompt, seed) in enumerate(pack.rows())
    ]
    if said is None or "best" not in said.status:
        failed = said.status.get("error", "") if said else ""
        return [dataclasses.replace(one, error=one.error or failed) for one in plain]
    status = said.status
    by_index = {step["index"]: step for step in said.steps}
    error = error or status.get("error", "") if now == "failed" else ""
    lines = []
    for one in plain:
        before, best, at = said.steps[0]["reward"][one.row], status["best"][one.row], status["found"][one.row]
        never = now == "done" and not math.isfinite(best)
        lines.append(
            dataclasses.replace(
                one,
                state="failed" if never else now,
                before=None if never else before,
                best=None if never else best,
                gain=None if never else best - before,
                probability=by_index[at]["probability"][one.row],
                strict=status["strict"][one.row] if "strict" in status else None,
                step=at,
                ended=status["rows"][one.row].lower(),
                error="its reward was never finite" if never else error,
            )
        )
    return lines


def index(found: Sequence[Outcome], path: Path) -> Path:
    """Write the outcomes as CSV, one line per row."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Outcome)], lineterminator="\n")
    table.writeheader()
    for one in found:
        table.writerow(dataclasses.asdict(one))
    replace_file(path, lambda beside: beside.write_text(text.getvalue(), encoding="utf-8"))
    return path


def contact(found: Sequence[Outcome], out: Path, path: Path) -> Path | None:
    """Write a sheet of pictures before and after, some pairs side by side; None where there are no pictures.

    Of more than 256 pairs it shows the first.
    """
    tiles = []
    for one in found:
        files = [out / one.run / which / f"{one.row:02d}.png" for which in ("initial", "best")]
        if len(tiles) < PAIRS and all(file.exists() for file in files):
            tiles.append([_small(file) for file in files])
    tiles = [pair for pair in tiles if all(pair)]
    if not tiles:
        return None
    size = tiles[0][0].size if tiles[0][0] else (1, 1)
    fitting = [[image.resize(size) for image in pair if image] for pair in tiles]
    wide = min(LINE, len(fitting))
    lines = [sum(fitting[at : at + wide], []) for at in range(0, len(fitting), wide)]
    sheet = draw_grid(lines, ["before", "after"] * wide)
    replace_file(path, lambda beside: sheet.save(beside, format="PNG"))
    return path


def _small(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            small = enlarge(image.convert("RGB"))
    except OSError:
        return None
    small.thumbnail((2 * TILE, 2 * TILE))
    return small


def page(found: Sequence[Outcome], out: Path, path: Path) -> Path:
    """Write the outcomes as a page that needs nothing but the pictures beside it."""
    done = [one for one in found if one.state == "done"]
    gains = [one.gain for one in done if one.gain is not None and math.isfinite(one.gain)]
    said = [f"{len(found)} rows: {counted(found)}"]
    if gains:
        said.append(f"reward +{sum(gains) / len(gains):.4g} on average, from {min(gains):+.4g} to {max(gains):+.4g}")
    odd = sum(one.strict is not None and one.strict < SUSPECT for one in done)
    if odd:
        said.append(f"the noise of {odd} no longer looks like noise (strict P(z) below {SUSPECT:g})")
    lines = "\n".join(_line(one, out) for one in found)
    heads = "".join(f"<th>{name}</th>" for name in ("row", "before", "after", "reward", "P(z)", "strict", "ended"))
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(out.name)}</title>\n<style>{STYLE}</style></head>\n<body><h1>{html.escape(out.name)}</h1>"
        f"\n<p>{'. '.join(said)}.</p>\n<table><thead><tr>{heads}</tr></thead><tbody>\n{lines}\n</tbody></table>"
        "</body></html>\n"
    )
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))
    return path


STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#222;"
    "background:#fff}h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600}"
    "td,th{padding:.35rem .6rem;border-bottom:1px solid #ddd;vertical-align:middle}img{width:128px;max-width:22vw;"
    "display:block;image-rendering:pixelated}.small{color:#666;font-size:13px}.bad{color:#a11}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}td,th{border-color:#333}"
    ".small{color:#999}.bad{color:#f88}}"
)


def _line(one: Outcome, out: Path) -> str:
    cells = [
        f"<b>{html.escape(one.id)}</b> <span class=small>seed {one.seed}</span><br>{html.escape(one.prompt)}"
        f"<br><span class=small>{html.escape(one.reward)}</span>"
    ]
    for which in ("initial", "best"):
        source = f"{one.run}/{which}/{one.row:02d}.png"
        there = (out / source).exists()
        cells.append(f'<img loading=lazy src="{source}" alt="{which}">' if there else "")
    went = "" if one.best is None or one.before is None else f"{one.before:.4g} &rarr; <b>{one.best:.4g}</b>"
    strict = "" if one.strict is None else f"{one.strict:.2g}"
    marked = f"<span class=bad>{strict}</span>" if one.strict is not None and one.strict < SUSPECT else strict
    likely = "" if one.probability is None else f"{one.probability:.2g}"
    ended = one.ended if one.state == "done" else one.state
    wrong = f"<br><span class=bad>{html.escape(one.error)}</span>" if one.error else ""
    cells += [went, likely, marked, f"{ended}{wrong}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def counted(found: Sequence[Outcome]) -> str:
    """How many rows are in which state: `43 done, 2 failed`."""
    states = ("done", "running", "interrupted", "waiting", "failed", "damaged")
    counts: dict[str, Any] = {name: sum(one.state == name for one in found) for name in states}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def report(batch: Batch, errors: Mapping[str, str] | None = None) -> list[Outcome]:
    """Write `index.csv`, `contact.png` and `report.html`; gives the outcomes."""
    found = outcomes(batch, errors)
    index(found, batch.out / "index.csv")
    contact(found, batch.out, batch.out / "contact.png")
    page(found, batch.out, batch.out / "report.html")
    return found
