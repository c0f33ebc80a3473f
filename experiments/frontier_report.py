"""The tables and the plot of `frontier.py`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from experiments.report import RESULTS, format_mean, interval
from experiments.support import insert
from noiseward.loop.plausible import Plausible
from training.evaluate import wilson

__all__ = ["draw", "lines", "merge", "publish", "stored", "verdict"]

Results = dict[str, dict[str, list[Any]]]
"""By reward and method, the chunks; each a look per mark, the start first."""

DOCS = Path(__file__).parents[1] / "docs"
LEVELS = Plausible()
LUCK = "best-of-n:samples=9"
SHOWN = 3  # of the marks, in the tables of the page; and the last of each method
TESTS = ("fails a test", "fails with new samples")
HEAD = ("cost", "method", "images", "gain", "less best-of-n's", "noun right", "border right", *TESTS)


def pool(chunks: list[Any], mark: int, name: str) -> list[float]:
    """A number of all images at a mark."""
    looks = [look for chunk in chunks for look in chunk if look["mark"] == mark and name in look]
    return [value for look in looks for value in look[name] if value is not None]


def reached(chunks: list[Any], mark: int) -> bool:
    """Whether a method was run until a mark."""
    return any(look["mark"] == mark for chunk in chunks for look in chunk)


def gain(chunks: list[Any], mark: int) -> list[float]:
    """How much the reward of each image rose from its start."""
    return [now - then for now, then in zip(pool(chunks, mark, "reward"), pool(chunks, 0, "reward"), strict=True)]


def failing(chunks: list[Any], mark: int) -> list[bool]:
    """Which images fail one of the tests."""
    pairs = zip(pool(chunks, mark, "strict"), pool(chunks, mark, "image"), strict=True)
    return [strict < LEVELS.strict or image < LEVELS.image for strict, image in pairs]


def share(values: Sequence[float]) -> str:
    """A share with its 95 % interval, or nothing."""
    if not values:
        return ""
    low, high = wilson(round(sum(values)), len(values))
    return f"{sum(values) / len(values):.0%} ({low:.0%} to {high:.0%})"


def lines(results: Results, marks: Sequence[int]) -> list[str]:
    """A table per reward, in Markdown; columns that nothing is known of are left out."""
    text = []
    for reward, by in results.items():
        some = next(iter(by.values()))
        text += [f"**{reward}**: {format_mean(interval(pool(some, 0, 'reward')), 3)} at the start", ""]
        rows = [
            (f"{mark}x", f"`{method}`", *numbers(by, chunks, mark))
            for mark in marks
            for method, chunks in by.items()
            if reached(chunks, mark)
        ]
        known = [number for number in range(len(HEAD)) if any(row[number] for row in rows)]
        text += [f"| {' | '.join(HEAD[number] for number in known)} |", "|" + "---|" * len(known)]
        text += [f"| {' | '.join(row[number] for number in known)} |" for row in rows] + [""]
    return text


def numbers(by: dict[str, list[Any]], chunks: list[Any], mark: int) -> tuple[str, ...]:
    """The cells of a method at a mark; how many images only where methods differ in that."""
    counts = {len(pool(some, 0, "reward")) for some in by.values()}
    return (
        str(len(pool(chunks, 0, "reward"))) if len(counts) > 1 else "",
        format_mean(interval(gain(chunks, mark)), 3),
        format_mean(interval(ahead(by, chunks, mark)), 3),
        share(pool(chunks, mark, "noun")),
        share(pool(chunks, mark, "ground")),
        share([float(fails) for fails in failing(chunks, mark)]),
        share([float(p < LEVELS.image) for p in pool(chunks, mark, "other")]),
    )


def ahead(by: dict[str, list[Any]], chunks: list[Any], mark: int) -> list[float]:
    """How much more each image gained than by luck at that mark, of those that both have; 0 where luck ended before."""
    luck = by[LUCK] if LUCK in by and reached(by[LUCK], mark) else chunks
    pairs = zip(chunks, luck, strict=False)
    return [a - b for own, other in pairs for a, b in zip(gain([own], mark), gain([other], mark), strict=True)]


def verdict(results: Results, marks: Sequence[int]) -> str:
    """Where `auto` is ahead of luck, and how many of its images fail a test."""
    parts = []
    for reward, by in results.items():
        if "auto" not in by or LUCK not in by:
            continue
        words = []
        both = [mark for mark in marks if reached(by["auto"], mark) and reached(by[LUCK], mark)]
        for mark in both:
            words.append(f"{mark}x {format_mean(interval(ahead(by, by['auto'], mark)), 3)}")
        fails = sum(sum(failing(by["auto"], mark)) for mark in both)
        parts.append(f"{reward}: auto less best-of-n {', '.join(words)}; {fails} of its images fail a test")
    return "; ".join(parts)


def stored(name: str, settings: Mapping[str, Any], *, folder: Path = RESULTS) -> Results:
    """The results that were written before with the same settings, without methods that have been revised since."""

    def fixed(settings: Mapping[str, Any]) -> Any:
        return json.loads(json.dumps({key: settings[key] for key in settings if key not in ("captions", "revised")}))

    path = folder / f"{name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": {}}
    if fixed(known["settings"]) != fixed(settings):
        return {}
    then, now = (one.get("revised", {}) for one in (known["settings"], settings))
    results = known["results"].items()
    return {reward: {key: by[key] for key in by if then.get(key) == now.get(key)} for reward, by in results}


def merge(before: Results, found: Results) -> Results:
    """What was stored, and what was found now in its place; chunks that were not run now stay."""
    merged = {reward: dict(by) for reward, by in before.items()}
    for reward, by in found.items():
        known = merged.setdefault(reward, {})
        known |= {method: [*chunks, *known.get(method, [])[len(chunks) :]] for method, chunks in by.items()}
    return merged


def publish(
    name: str, results: Results, marks: Sequence[int], images: Mapping[str, Image.Image], *, docs: Path = DOCS
) -> None:
    """Put plot, tables and images into the page on how to choose, between the experiment's marks.

    A sheet is named after its reward, or its reward and methods. Sheets that are not given stay as they are, but those
    of some methods go when one of all methods is given.
    """
    draw(results, marks).savefig(docs / "pictures" / f"{name}.png", dpi=110)
    ends = {max(mark for mark in marks if reached(chunks, mark)) for by in results.values() for chunks in by.values()}
    shown = [mark for mark in marks if mark == SHOWN or mark in ends]

    def some(reward: str) -> list[Path]:
        return sorted((docs / "pictures").glob(f"{name}_{reward}_*.png"))

    for label, sheet in images.items():
        for old in some(label):
            old.unlink()
        sheet.save(docs / "pictures" / f"{name}_{label}.png", optimize=True)
    text = ["", f"![Gain, and the share of images that pass, against cost](pictures/{name}.png)", ""]
    for reward, by in results.items():
        text += lines({reward: by}, shown)
        whole = docs / "pictures" / f"{name}_{reward}.png"
        for sheet in [*([whole] if whole.exists() else []), *some(reward)]:
            who = sheet.stem.removeprefix(f"{name}_{reward}").strip("_") or "each method"
            text += [f"![What {who} returns under {reward} at the largest cost](pictures/{sheet.name})", ""]
    page = docs / "how-to-choose.md"
    page.write_text(insert(page.read_text(encoding="utf-8"), name, "\n".join(text)), encoding="utf-8")


def draw(results: Results, marks: Sequence[int]) -> Figure:
    """Per reward, against cost: the mean gain, what is ahead of luck image by image, and the share that passes."""
    figure = Figure(figsize=(3.4 * len(results), 8), layout="constrained")
    axes = figure.subplots(3, len(results), squeeze=False, sharex=True)
    methods = list(dict.fromkeys(method for by in results.values() for method in by))
    for column, (reward, by) in enumerate(results.items()):
        for method, chunks in by.items():
            number = methods.index(method)
            line = ("-", "--", ":", "-.")[number % 4]
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": line, "marker": "o", "markersize": 3}
            style |= {"color": "black", "linestyle": "-", "linewidth": 2.2} if method == "auto" else {}
            own = [mark for mark in marks if reached(chunks, mark)]
            axes[0, column].plot(own, [statistics.fmean(gain(chunks, mark)) for mark in own], label=method, **style)
            if LUCK in by and method != LUCK:
                beside = [mark for mark in own if reached(by[LUCK], mark)]
                leads = [interval(ahead(by, chunks, mark)) for mark in beside]
                axes[1, column].errorbar(
                    [mark * 1.03 ** (number - len(methods) / 2) for mark in beside],  # so that bars stand side by side
                    [one["mean"] for one in leads], [one["half"] for one in leads], elinewidth=1, **style,
                )  # fmt: skip
            passing = [1 - sum(failing(chunks, mark)) / len(failing(chunks, mark)) for mark in own]
            axes[2, column].plot(own, passing, **style)
        axes[0, column].set(title=reward, xscale="log")
        axes[1, column].axhline(0, color="C0", linewidth=1)
        axes[2, column].set(xlabel="cost, in 10 samples", ylim=(0, 1.05))
        axes[2, column].set_xticks(list(marks), [f"{mark}x" for mark in marks])
        axes[2, column].minorticks_off()
    for row, label in enumerate(("gain", "gain less best-of-n's", "share that passes")):
        axes[row, 0].set_ylabel(label)
    known = {label: line for one in axes[0] for line, label in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside lower center", ncols=4, fontsize=8)
    return figure
