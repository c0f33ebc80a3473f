"""Tables, plots and words of `in_distribution`."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from experiments.claim import Agreement
from experiments.guarded import label_rows, read_line
from experiments.report import format_mean, interval

Results = dict[str, dict[str, list[dict[str, Any]]]]  # guard, group, chunks
KINDS = ("neutral", "contradicted")


def rows(chunks: list[dict[str, Any]], what: str, at: int | str) -> list[float]:
    """One number per row, of the best noise or of the measured step with that index (-1: the last); none unjudged."""
    found: list[float] = []
    for chunk in chunks:
        place = chunk["best"] if at == "best" else _at(chunk["along"], int(at))
        found += place[what] or []
    return found


def change(chunks: list[dict[str, Any]], what: str, at: int | str = "best") -> dict[str, float] | None:
    """From the start to some place, row by row; None where it was not judged."""
    pairs = zip(rows(chunks, what, 0), rows(chunks, what, at), strict=True)
    changes = [b - a for a, b in pairs]
    return interval(changes) if changes else None


def _at(along: list[dict[str, Any]], index: int) -> dict[str, Any]:
    return along[-1] if index < 0 else next(place for place in along if place["index"] == index)


def of_kind(by_group: dict[str, list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """The chunks of the groups of one kind."""
    return [chunk for group, some in by_group.items() if kind in group for chunk in some]


def summaries(results: Results) -> dict[str, dict[str, Any]]:
    """What each guard did, by kind of caption."""
    means = {guard: {kind: summary(of_kind(by, kind)) for kind in KINDS} for guard, by in results.items()}
    for guard, by in results.items():
        for kind in KINDS:
            if means[guard][kind]:
                means[guard][kind]["share"] = share(results["none"], by, kind)
    return means


def share(free: dict[str, list[dict[str, Any]]], guarded: dict[str, list[dict[str, Any]]], kind: str) -> float:
    """The part of the unguarded gain that is left, on the pairs that both have."""
    same = {group: some[: len(guarded[group])] for group, some in free.items() if group in guarded}
    one, other = (
        statistics.fmean(gains(of_kind({group: by[group] for group in same}, kind))) for by in (guarded, same)
    )
    return one / other if other else 0.0


def gains(chunks: list[dict[str, Any]]) -> list[float]:
    """How much the best of each row has more than its start."""
    return [b - a for a, b in zip(rows(chunks, "reward", 0), rows(chunks, "reward", "best"), strict=True)]


def summary(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a guard did on some chunks."""
    if not chunks:
        return {}
    after, before = rows(chunks, "noun", "best"), rows(chunks, "noun", 0)
    return {
        "gain": interval(gains(chunks)),
        "noun": interval(after) if after else None,
        "noun_at_start": interval(before) if before else None,
        "noun_change": change(chunks, "noun"),
        "background_change": change(chunks, "background"),
        "probability": statistics.median(rows(chunks, "probability", "best")),
        "strict": statistics.median(rows(chunks, "strict", "best")),
        "seconds": statistics.fmean(chunk["seconds"] for chunk in chunks),
    }


def verdict(table: dict[str, dict[str, Any]]) -> str:
    """Which guards reach the goal: judge within 5 points of the start, at least half of the unguarded gain."""
    sentences, unjudged = [], False
    for guard, means in table.items():
        left, lost = means["neutral"]["share"], means["neutral"]["noun_change"]
        words = f"{guard}: {left:.0%} of the unguarded gain"
        if lost is None:
            unjudged = True
        else:
            reached = "reaches the goal" if left >= 0.5 and lost["mean"] >= -0.05 else "misses it"
            words += f", nouns {format_mean(lost, 0, 100)} points (n = {lost['n']}), {reached}"
        sentences.append(words)
    goal = "the goal is at least half of the unguarded gain, and at most 5 points of nouns lost; "
    return ("without the judge, which is not installed: " if unjudged else goal) + "; ".join(sentences)


def agreement(table: dict[str, dict[str, Any]]) -> Agreement:
    """Whether unguarded ascent loses nouns, and the paper's regularization significantly fewer, whatever the prompt.

    Of the two penalties the one with the most pairs counts. The intervals are compared as if pairs were not shared,
    which makes them wider, if anything.
    """
    names = [guard for guard in ("concentration:1.0", "concentration:target=0.1") if guard in table]
    if not names or table["none"]["neutral"]["noun_change"] is None:
        return "not comparable"
    name = max(names, key=lambda guard: table[guard]["neutral"]["noun_change"]["n"])
    free, left = ([table[guard][kind]["noun_change"] for kind in KINDS] for guard in ("none", name))
    hacked = any(one["mean"] + one["half"] < 0 for one in free)
    remedied = [
        one["mean"] - other["mean"] > math.hypot(one["half"], other["half"])
        for one, other in zip(left, free, strict=True)
    ]
    return "agrees" if hacked and all(remedied) else "agrees in part" if hacked or any(remedied) else "contradicts"


def lines(table: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table people read: best noise of each run, means over pairs of caption and seed, medians of both P(z)."""
    head = [
        "captions",
        "guard",
        "n",
        "gain",
        "of unguarded",
        "noun right, %",
        "change of it",
        "background: change",
        "P(z)",
        "strict P(z)",
    ]
    found = [head]
    for kind in KINDS:
        for guard, means in table.items():
            one = means[kind]
            if one:
                cells = [
                    format_mean(one[part], 1, 100) if one[part] else ""
                    for part in ("noun", "noun_change", "background_change")
                ]
                found.append([kind, guard, str(one["gain"]["n"]), format_mean(one["gain"], 3), f"{one['share']:.0%}",
                              *cells, f"{one['probability']:.2g}", f"{one['strict']:.1g}"])  # fmt: skip
    return found


def draw(results: Results) -> Figure:
    """Judge against gain along every guard's way: the Pareto front; and P(z) against steps."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for column, kind in enumerate(KINDS):
        for number, (guard, by_group) in enumerate(results.items()):
            chunks = of_kind(by_group, kind)
            if not chunks:
                continue
            indices = [place["index"] for place in chunks[0]["along"]]
            style: dict[str, Any] = {
                "color": f"C{number % 10}",
                "linestyle": ("-", "--", ":")[number // 4 % 3],
                "marker": "os^v"[number % 4],
                "markersize": 4,
                "label": guard,
            }
            gains = [change(chunks, "reward", index) for index in indices]
            nouns = [rows(chunks, "noun", index) for index in indices]
            strict = [max(statistics.median(rows(chunks, "strict", index)), 1e-30) for index in indices]
            if all(nouns):
                right = [interval(one) for one in nouns]
                axes[0, column].plot(
                    [one["mean"] for one in gains if one], [100 * one["mean"] for one in right], **style
                )
                last, wide = gains[-1], right[-1]
                if last:
                    axes[0, column].errorbar(
                        last["mean"], 100 * wide["mean"], 100 * wide["half"], last["half"], color=style["color"],
                        linewidth=0.6, capsize=2,
                    )  # fmt: skip
            axes[1, column].plot(indices, strict, **style)
        axes[0, column].set(title=f"{kind} captions", xlabel="reward gained", ylabel="noun right, % (held-out judge)")
        axes[1, column].set(xlabel="optimization steps", ylabel="strict P(z), median", yscale="log")
        for row in (0, 1):
            axes[row, column].grid(alpha=0.3)
    axes[1, 0].legend(fontsize=7)
    return figure


def image_path(folder: Path, guard: str, group: str, chunk: int, steps: int) -> Path:
    """Where the images of a run are stored."""
    return folder / "pictures" / f"{guard}-{group}-{chunk}-{steps}.png".replace(" ", "_").replace(":", "_")


def contact(results: Results, folder: Path, steps: int) -> Image.Image:
    """The first chunk of the first contradicted group: starts, then what each guard made of them."""
    group = next(group for by in results.values() for group in by if "contradicted" in group)
    paths = {guard: image_path(folder, guard, group, 0, steps) for guard in results}
    start = next(iter(paths.values()))
    return label_rows([("start", read_line(start, 0)), *((guard, read_line(path, 2)) for guard, path in paths.items())])
