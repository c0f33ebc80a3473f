"""Reward hacking: brightness for images asked to be on black, darkness for images asked to be on white.

The built-in model, 8 nouns and 4 seeds for each reward. A reward that contradicts the caption is optimized without a
guard, with the paper's probability regularization at weight 1, and with it at a weight that keeps P(z) at 0.1. Adam
goes at five times the default rate, so that there is something to guard against. Measured and never optimized: P(z),
and whether the held-out judge still finds the noun and the background that the caption names.

A guard that slows the optimization keeps more after as many steps, whatever else it does. So each guarded image is also
compared with the unguarded one of its caption and seed at the first step looked at where that had as much reward.
"""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from experiments import built_in
from experiments.cells import Cell
from experiments.claim import Agreement, Claim, Outcome
from experiments.frame import Request, main
from experiments.guarded import GROUPS, RATE, Guard, label_rows, optimize, read_line
from experiments.in_distribution_report import change, image_path, rows
from experiments.report import format_mean, interval
from noiseward import stickers

CLAIM = Claim(
    title="Out-of-distribution reward hacking and its remedy (Figure 5)",
    paper="naive DNO occasionally yields samples of high reward that are no longer in the support of the pretrained "
    "distribution; probability regularization is an effective remedy",
    source="abstract and Figure 5",
    minutes=75,
)
UNGUARDED = "no regularization"
GUARDS = {
    UNGUARDED: Guard(),
    "regularized, weight 1": Guard("concentration:1.0"),
    "regularized, P(z) at 0.1": Guard("concentration:target=0.1"),
}
CONTRADICTED = ("brightness, contradicted", "darkness, contradicted")
STYLES = {
    name: style for name, style in zip(GUARDS, (("C1", "-", "o"), ("0", "--", "s"), ("0.5", ":", "^")), strict=True)
}


def pairs(chunk: int, seeds: int) -> list[tuple[str, int]]:
    """Noun and seed of each row of a chunk, which is two nouns with all their seeds."""
    nouns = stickers.nouns()
    return [(nouns[(2 * chunk + k) * 7 % len(nouns)], 1000 + seed) for k in range(2) for seed in range(seeds)]


def conduct(request: Request) -> Outcome:
    """Both rewards under all guards."""
    chunks, seeds, steps = request.pick(4, 1, 1), request.pick(4, 2, 1), request.pick(30, 6, 1)
    sampler_steps, every = request.pick(10, 10, 2), request.pick(3, 2, 1)
    guards = request.pick(list(GUARDS), list(GUARDS), list(GUARDS)[::2])
    groups = request.pick(CONTRADICTED, CONTRADICTED, CONTRADICTED[:1])
    work = [(guard, group, chunk) for chunk in range(chunks) for group in groups for guard in guards]
    cells: dict[tuple[str, str, int], Cell] = {}
    for guard, group, chunk in work:
        key = {"guard": dataclasses.asdict(GUARDS[guard]), "group": group, "chunk": chunk, "seeds": seeds,
               "moves": steps, "model": built_in.version()}  # fmt: skip
        path = image_path(request.folder, guard.replace(",", ""), group, chunk, steps)
        cells[guard, group, chunk] = Cell(key, partial(
            optimize, GUARDS[guard], group, pairs(chunk, seeds), steps=steps, every=every,
            images=path, sampler_steps=sampler_steps,
        ))  # fmt: skip
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (guard, group, _), run in request.cells(cells).items():
        results.setdefault(group, {}).setdefault(guard, []).append(run)
    means = {
        group: {guard: summary(some, by[UNGUARDED]) for guard, some in by.items()} for group, by in results.items()
    }
    settings = {
        "nouns": 2 * chunks, "seeds": f"1000 to {999 + seeds}", "steps": steps, "rate": RATE,
        "stickers": {**built_in.CALL, "num_inference_steps": sampler_steps},
    }  # fmt: skip
    return Outcome(
        verdict=verdict(means),
        agreement=agreement(means),
        settings=settings,
        results=means,
        table=table(means),
        figure=draw(means),
        images={"pictures": contact(results, request, steps)},
    )


def summary(chunks: list[dict[str, Any]], free: list[dict[str, Any]]) -> dict[str, Any]:
    """A guard's numbers along the way, what changed from start to the last step and to the best, and how the last
    compares with the unguarded at equal reward."""
    means: dict[str, Any] = {"index": [place["index"] for place in chunks[0]["along"]]}
    for part in ("reward", "noun", "background"):
        every = [rows(chunks, part, index) for index in means["index"]]
        means[part] = [interval(one) for one in every] if all(every) else None
        means[f"{part}_change"] = change(chunks, part, -1)
        means[f"{part}_change_best"] = change(chunks, part, "best")
        means[f"{part}_equal_reward"] = equal_reward(chunks, free, part) if chunks is not free else None
    for part in ("probability", "strict"):
        every = [rows(chunks, part, index) for index in means["index"]]
        means[part] = [quartiles(one) for one in every]
    return means


def equal_reward(chunks: list[dict[str, Any]], free: list[dict[str, Any]], part: str) -> dict[str, float] | None:
    """How much more of something each last image has than the unguarded one at the first look with as much reward;
    its last look where it never got there."""
    more = []
    for chunk, other in zip(chunks, free, strict=True):
        last = chunk["along"][-1]
        for row, reward in enumerate(last["reward"]):
            same = next((place for place in other["along"] if place["reward"][row] >= reward), other["along"][-1])
            if last[part] is not None and same[part] is not None:
                more.append(last[part][row] - same[part][row])
    return interval(more) if more else None


def quartiles(values: list[float]) -> dict[str, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"low": low, "middle": middle, "high": high}


def verdict(means: dict[str, Any]) -> str:
    """What each guard gained and lost by the last step."""
    sentences = []
    for group, by in means.items():
        each = []
        for guard, one in by.items():
            changes = [
                f"{part} right {one[part + '_change']['mean'] * 100:+.0f} points"
                for part in ("noun", "background") if one[f"{part}_change"]
            ]  # fmt: skip
            likely = one["probability"][-1]["middle"]
            same = [
                f"{format_mean(one[part + '_equal_reward'], 0, 100)} points ({part})"
                for part in ("noun", "background") if one[f"{part}_equal_reward"]
            ]  # fmt: skip
            versus = f" (at equal reward {' and '.join(same)} against no guard)" if same else ""
            each.append(
                f"{guard} {format_mean(one['reward_change'], 2)} with P(z) {likely:.1g}, {', '.join(changes)}{versus}"
            )
        sentences.append(f"{GROUPS[group][0]} on {GROUPS[group][1]}: " + "; ".join(each))
    sentences.append(compare_at_equal_reward(means))
    unjudged = any(one["noun"] is None for by in means.values() for one in by.values())
    return ("nouns unjudged, as the judge is not installed. " if unjudged else "") + ". ".join(sentences)


def compare_at_equal_reward(means: dict[str, Any]) -> str:
    """What regularization is worth at equal reward, in a sentence."""
    same = [
        one[f"{part}_equal_reward"] for by in means.values() for one in by.values() for part in ("noun", "background")
        if one[f"{part}_equal_reward"]
    ]  # fmt: skip
    better, worse = (
        sum(sign * one["mean"] > (one["half"] or 0) and one["mean"] != 0 for one in same) for sign in (1, -1)
    )
    if not better and not worse:
        return "At equal reward no guard keeps more than none: what regularization does here, stopping sooner does too"
    return f"At equal reward guards keep significantly more in {better} of {len(same)} comparisons, less in {worse}"


def agreement(means: dict[str, Any]) -> Agreement:
    """Whether the unguarded run loses what was asked for, and regularization keeps more of it: after as many steps,
    and at as much reward."""
    hacked, remedied, same = [], [], []
    for by in means.values():
        free, guarded = by[UNGUARDED], list(by.values())[-1]
        parts = [f"{part}_change" for part in ("noun", "background") if free[f"{part}_change"]]
        hacked += [free[part]["mean"] + (free[part]["half"] or 0) < 0 for part in parts]
        remedied += [guarded[part]["mean"] - (guarded[part]["half"] or 0) > free[part]["mean"] for part in parts]
        equal = [guarded[part.replace("change", "equal_reward")] for part in parts]
        same += [one["mean"] - (one["half"] or 0) > 0 for one in equal]
    if not any(hacked):
        return "contradicts"
    return "agrees" if all(r and e for h, r, e in zip(hacked, remedied, same, strict=True) if h) else "agrees in part"


def table(means: dict[str, Any]) -> list[list[str]]:
    """Changes from the start to the last step."""
    parts = ("noun", "background")
    versus = [f"{part} against no guard at equal reward, points" for part in parts]
    lines = [["reward optimized", "guard", "reward", "noun right, points", "background right, points", "P(z), median",
              "strict P(z), median", *versus]]  # fmt: skip
    for group, by in means.items():
        for guard, one in by.items():
            cells, same = (
                [format_mean(one[f"{part}_{what}"], 0, 100) if one[f"{part}_{what}"] else "" for part in parts]
                for what in ("change", "equal_reward")
            )
            lines.append([
                f"{GROUPS[group][0]} on {GROUPS[group][1]}", guard, format_mean(one["reward_change"], 3), *cells,
                f"{one['probability'][-1]['middle']:.2g}", f"{one['strict'][-1]['middle']:.1g}",
                *same,
            ])  # fmt: skip
    return lines


def draw(means: dict[str, Any]) -> Figure:
    """Reward, P(z) and fidelity against steps, a row per reward."""
    parts = ("reward", "probability", "noun", "background")
    labels = ("reward", "P(z): median, quartiles", "noun right, %", "background right, %")
    figure = Figure(figsize=(15, 3.5 * len(means)), layout="constrained")
    for (group, by), row in zip(means.items(), figure.subplots(len(means), 4, squeeze=False), strict=True):
        for guard, one in by.items():
            color, dash, mark = STYLES[guard]
            style: dict[str, Any] = {"color": color, "linestyle": dash, "marker": mark, "markersize": 4, "label": guard}
            for axes, part in zip(row, parts, strict=True):
                if part == "probability":
                    low, middle, high = ([max(p[k], 1e-30) for p in one[part]] for k in ("low", "middle", "high"))
                    axes.plot(one["index"], middle, **style)
                    axes.fill_between(one["index"], low, high, color=color, alpha=0.15)
                elif one[part]:
                    scale = 1 if part == "reward" else 100
                    mean, half = ([scale * p[k] for p in one[part]] for k in ("mean", "half"))
                    axes.errorbar(one["index"], mean, half, capsize=2, **style)
        for axes, label in zip(row, labels, strict=True):
            axes.set(xlabel="optimization steps", ylabel=label)
            axes.grid(alpha=0.3)
        row[1].set(yscale="log", ylim=(1e-30, 3))
        row[0].set_title(f"{GROUPS[group][0]} for '... on a {GROUPS[group][1]} background'", fontsize=9)
        row[0].legend(fontsize=8)
    return figure


def contact(results: dict[str, Any], request: Request, steps: int) -> Image.Image:
    """The first chunk of each reward: the starts, and the last of each guard."""
    lines = []
    for group, by in results.items():
        for number, guard in enumerate(by):
            path = image_path(request.folder, guard.replace(",", ""), group, 0, steps)
            what = f"{GROUPS[group][0]} on {GROUPS[group][1]}"
            if number == 0:
                lines.append((f"{what}: start", read_line(path, 0)))
            lines.append((f"{what}: {guard}, step {steps}", read_line(path, 1)))
    return label_rows(lines)


if __name__ == "__main__":
    main("reward_hacking", CLAIM, conduct)
