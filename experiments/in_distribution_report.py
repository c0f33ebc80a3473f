"""Tables, plots and words of `in_distribution`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from experiments.report import RESULTS, interval, write
from noiseward import stickers

Results = dict[str, dict[str, list[dict[str, Any]]]]  # method, group, chunks


def model() -> str:
    """The version of the built-in model."""
    return json.loads((stickers.path().parent / "words.json").read_text())["version"]


def rows(chunks: list[dict[str, Any]], what: str, at: int | str) -> list[float]:
    """One number per row, of the best noise or of the watched step with that index (-1: the last)."""
    found: list[float] = []
    for chunk in chunks:
        place = chunk["best"] if at == "best" else _at(chunk["along"], int(at))
        found += place[what] or []
    return found


def _at(along: list[dict[str, Any]], index: int) -> dict[str, Any]:
    return along[-1] if index < 0 else next(place for place in along if place["index"] == index)


def summary(by_group: dict[str, list[dict[str, Any]]], kind: str) -> dict[str, Any]:
    """What a method did on the groups of one kind: neutral or contradicted."""
    chunks = [chunk for group, some in by_group.items() if kind in group for chunk in some]
    if not chunks:
        return {}
    gains = [b - a for a, b in zip(rows(chunks, "reward", 0), rows(chunks, "reward", "best"), strict=True)]
    nouns = [b - a for a, b in zip(rows(chunks, "noun", 0), rows(chunks, "noun", "best"), strict=True)]
    told: dict[str, Any] = {
        "gain": interval(gains),
        "noun": interval(rows(chunks, "noun", "best")),
        "noun_at_start": interval(rows(chunks, "noun", 0)),
        "noun_change": interval(nouns),
        "probability": statistics.median(rows(chunks, "probability", "best")),
        "strict": statistics.median(rows(chunks, "strict", "best")),
        "seconds": statistics.fmean(chunk["seconds"] for chunk in chunks),
    }
    if kind == "contradicted":
        before, after = rows(chunks, "background", 0), rows(chunks, "background", "best")
        told["background"] = interval(after)
        told["background_change"] = interval([b - a for a, b in zip(before, after, strict=True)])
    return told


def publish(name: str, settings: dict[str, Any], results: Results, pictures: Path) -> None:
    """Write everything."""
    table = {
        method: {kind: summary(by_group, kind) for kind in ("neutral", "contradicted")}
        for method, by_group in results.items()
    }
    write(name, settings=settings, results=table, verdict=verdict(table), figure=draw(results))
    contact(results, pictures).save(RESULTS / f"{name}_pictures.png")
    (RESULTS / f"{name}.md").write_text(page(table, settings))


def verdict(table: dict[str, dict[str, Any]]) -> str:
    """Which methods reach the goal: judge within 5 points of the start, at least half of the unguarded gain."""
    free = table["none"]["neutral"]["gain"]["mean"]
    said = []
    for method, told in table.items():
        share, lost = told["neutral"]["gain"]["mean"] / free, -100 * told["neutral"]["noun_change"]["mean"]
        reached = "reaches the goal" if share >= 0.5 and lost <= 5 else "misses it"
        said.append(f"{method}: {share:.0%} of the unguarded gain, nouns {-lost:+.1f} points, {reached}")
    return "; ".join(said)


def page(table: dict[str, dict[str, Any]], settings: dict[str, Any]) -> str:
    """The table people read."""
    lines = [
        f"# Guards side by side: {settings['moves']} moves of Adam at rate {settings['rate']}, stickers "
        f"{settings['model']}",
        "",
        "Best noise of each run; mean and 95 % interval over pairs of caption and seed; medians of P(z) and of the "
        "strict P(z). `python -m experiments.in_distribution` regenerates this page.",
    ]
    for kind in ("neutral", "contradicted"):
        lines += ["", f"## {kind.capitalize()} captions", ""]
        lines += ["| method | n | gain | noun right | change of it | background: change | P(z) | strict P(z) |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for method, told in table.items():
            one = told[kind]
            back = _say(one["background_change"], 100) if "background_change" in one else ""
            lines.append(
                f"| {method} | {one['gain']['n']} | {_say(one['gain'])} | {_say(one['noun'], 100)} % | "
                f"{_say(one['noun_change'], 100)} | {back} | {one['probability']:.2g} | {one['strict']:.1g} |"
            )
    return "\n".join(lines) + "\n"


def _say(one: dict[str, float], scale: float = 1.0) -> str:
    digits = 1 if scale > 1 else 3
    return f"{scale * one['mean']:.{digits}f} +- {scale * one['half']:.{digits}f}"


def draw(results: Results) -> Figure:
    """Judge against gain along every method's way: the Pareto front; and P(z) against moves."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for column, kind in enumerate(("neutral", "contradicted")):
        for number, (method, by_group) in enumerate(results.items()):
            chunks = [chunk for group, some in by_group.items() if kind in group for chunk in some]
            if not chunks:
                continue
            indices = [place["index"] for place in chunks[0]["along"]]
            style = {
                "color": f"C{number % 10}",
                "linestyle": ("-", "--", ":")[number // 4 % 3],
                "marker": "os^v"[number % 4],
                "markersize": 4,
                "label": method,
            }
            gains = [
                statistics.fmean(
                    b - a for a, b in zip(rows(chunks, "reward", 0), rows(chunks, "reward", index), strict=True)
                )
                for index in indices
            ]
            nouns = [100 * statistics.fmean(rows(chunks, "noun", index)) for index in indices]
            strict = [max(statistics.median(rows(chunks, "strict", index)), 1e-30) for index in indices]
            axes[0, column].plot(gains, nouns, **style)
            axes[1, column].plot(indices, strict, **style)
        axes[0, column].set(title=f"{kind} captions", xlabel="reward gained", ylabel="noun right, % (held-out judge)")
        axes[1, column].set(xlabel="moves", ylabel="strict P(z), median", yscale="log")
        for row in (0, 1):
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    return figure


def contact(results: Results, pictures: Path) -> Image.Image:
    """The first chunk of the first contradicted group: starts, then what each method made of them."""
    group = next((group for by_group in results.values() for group in by_group if "contradicted" in group), None)
    lines: list[tuple[str, Image.Image]] = []
    for method in results:
        (path,) = sorted(pictures.glob(f"{method}-{group}-0-*.png".replace(" ", "_").replace(":", "_")))[-1:]
        both = Image.open(path)
        half = (both.height - 4) // 2
        if not lines:
            lines.append(("start", both.crop((0, 0, both.width, half))))
        lines.append((method, both.crop((0, half + 4, both.width, both.height))))
    return labeled(lines)


def labeled(lines: list[tuple[str, Image.Image]], scale: int = 2) -> Image.Image:
    """Rows of pictures with a title each."""
    from PIL import ImageDraw

    width, height = lines[0][1].size
    canvas = Image.new("RGB", (width * scale, (height * scale + 18) * len(lines)), "white")
    for number, (title, row) in enumerate(lines):
        top = number * (height * scale + 18)
        ImageDraw.Draw(canvas).text((2, top + 3), title, fill="black")
        canvas.paste(row.resize((width * scale, height * scale), Image.Resampling.NEAREST), (0, top + 18))
    return canvas
