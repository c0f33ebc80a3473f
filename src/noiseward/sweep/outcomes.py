"""What came out of a sweep: one outcome per row, as a table of numbers and a sheet of images."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from noiseward.errors import shorten
from noiseward.images import TILE, draw_grid, enlarge
from noiseward.rewards.shortfall import describe_reward, describe_shortfall, find_gain, is_met
from noiseward.runs.alive import describe_ending
from noiseward.runs.files import replace_file
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat
from noiseward.sweep.pack_task import PackState, PackTask
from noiseward.sweep.packs import Pack

__all__ = [
    "Outcome",
    "count_states",
    "describe_undone",
    "draw_contact",
    "find_outcomes",
    "write_contact",
    "write_index",
]

PAIRS = 256  # of before and after on a contact sheet at most
LINE = 4  # pairs side by side
STATES = ("done", "running", "interrupted", "killed", "waiting", "failed", "damaged", "refused")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One row of a sweep: the columns of `index.csv`.

    Attributes:
        id, prompt, seed, reward: what was asked.
        state: `done`, `failed`, `interrupted`, `killed`, `running`, `waiting`, `damaged`, or `refused`.
        before, best, gain: of the reward; None where requirements are not met.
        missing: what its best lacks of what was required.
        probability, strict: P(z) and the strict probability of the best noise.
        image: the probability of the best image, where it was tested.
        step: the one where the best was found; None where no reward was finite.
        ended: why the row stopped.
        run, row: the run directory, from the sweep's own, and the row in it.
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
    image: float | None = None
    step: int | None = None
    missing: str = ""
    ended: str = ""
    run: str = ""
    row: int = 0
    error: str = ""

    @property
    def caption(self) -> str:
        """What its image shows, and what came of it."""
        change = "" if self.step is None else f": {describe_reward(self.before, 3)} -> {describe_reward(self.best, 3)}"
        return f"{shorten(self.prompt, 24)}, seed {self.seed}{change}"


def find_outcomes(sweep: Sweep, ended: Mapping[str, Beat] | None = None) -> list[tuple[Pack, PackState, list[Outcome]]]:
    """The outcomes of each part of a sweep, with what is on disk of it, in the order of the packs.

    Arguments:
        sweep: whose directories are read; one that is damaged is an outcome too.
        ended: the last beats of packs, by name: why they failed, where their directory does not say why.
    """
    found = []
    for pack in sweep.parts():
        state = PackTask(pack, sweep.out).inspect(closely=True)
        found.append((pack, state, list(_read(pack, state, (ended or {}).get(pack.name)))))
    return found


def _read(pack: Pack, state: PackState, ended: Beat | None) -> Iterator[Outcome]:
    name, error, run = state.name, state.error, state.run
    if ended is not None and ended.error and name != "done":
        name, error = ended.state if name in ("waiting", "running", "killed") else name, ended.error
    if name == "failed" and not error:
        error = run.status.get("error", "") if run else ""
    for row, (id, prompt, seed) in enumerate(pack.rows()):
        outcome = Outcome(
            id, prompt, seed, " + ".join(pack.spec.reward), name, run=f"packs/{pack.name}", row=row, error=error
        )
        if run is None or "best" not in run.status:
            yield outcome
            continue
        status, step = run.status, run.status["found"][row]
        record = next(record for record in run.steps if record["index"] == step)
        more = {
            "probability": record["probability"][row],
            "strict": status["strict"][row] if "strict" in status else None,
            "image": status["image"][row] if "image" in status else None,
            "step": step,
            "ended": describe_ending(status["rows"][row], name),
        }
        before, best = run.steps[0]["reward"][row], status["best"][row]
        if name == "done" and not math.isfinite(best):
            error = "its reward was never finite"
            yield dataclasses.replace(outcome, state="failed", error=error, **{**more, "step": None})
        else:
            more |= {"before": before if is_met(before) else None, "best": best if is_met(best) else None}
            missing = describe_shortfall({name: scores[row] for name, scores in record["terms"].items()})
            yield dataclasses.replace(outcome, gain=find_gain(before, best), missing=missing or "", **more)


def count_states(outcomes: Sequence[Outcome]) -> str:
    """How many rows are in which state: `43 done, 2 failed`."""
    counts = Counter(one.state for one in outcomes)
    return ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name]) or "none"


def describe_undone(outcomes: Sequence[Outcome]) -> str | None:
    """What is not done, and how to continue; None if everything is done or does not apply."""
    undone = [one for one in outcomes if one.state not in ("done", "refused")]
    bad = [one for one in undone if one.state in ("failed", "damaged")]
    if not undone:
        return None
    if not bad:
        return f"{len(undone)} of {len(outcomes)} rows are not done; give the same command again to continue"
    first = bad[0]
    return (
        f"{len(bad)} of {len(outcomes)} rows are {first.state}, first '{first.id}' with seed {first.seed} "
        f"({first.error or 'for no known reason'}); correct that, and give the same command again to continue"
    )


def write_index(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the outcomes as CSV, one line per row."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Outcome)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(one) for one in outcomes)
    replace_file(path, lambda target: target.write_text(text.getvalue(), encoding="utf-8"))


def write_contact(outcomes: Sequence[Outcome], out: Path, path: Path) -> None:
    """Write the contact sheet as a PNG; none where there are no images."""
    if (sheet := draw_contact(outcomes, out)) is not None:
        replace_file(path, lambda target: sheet.save(target, format="PNG"))


def draw_contact(outcomes: Sequence[Outcome], out: Path) -> Image.Image | None:
    """A sheet of images before and after, some pairs side by side, with captions; None where there are no images.

    Of more than 256 pairs it shows the first.
    """
    pairs: list[list[Image.Image]] = []
    captions: list[str] = []
    for one in outcomes:
        files = [out / one.run / which / f"{one.row:02d}.png" for which in ("initial", "best")]
        if len(pairs) < PAIRS and all(file.exists() for file in files):
            pair = [image for file in files if (image := _open_small(file))]
            if len(pair) == 2:
                pairs.append(pair)
                captions.append(one.caption)
    if not pairs:
        return None
    size = pairs[0][0].size
    wide = min(LINE, len(pairs))
    same = ([image.resize(size) for image in pair] for pair in pairs)
    tiles = [draw_grid([pair], captions=[caption]) for pair, caption in zip(same, captions, strict=True)]
    lines = [tiles[at : at + wide] for at in range(0, len(tiles), wide)]
    return draw_grid(lines, ["before, after"] * wide)


def _open_small(file: Path) -> Image.Image | None:
    try:
        with Image.open(file) as image:
            small = enlarge(image.convert("RGB"))
    except OSError:
        return None
    small.thumbnail((2 * TILE, 2 * TILE))
    return small
