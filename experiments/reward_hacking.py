"""Reward hacking: brightness for pictures asked to be on black, darkness for pictures asked to be on white.

The built-in model, 8 nouns and 4 seeds for each reward. A reward that contradicts the caption is climbed without a
guard, with the paper's probability regularization at weight 1, and with it at a weight that keeps P(z) at 0.1. Adam
goes at five times the default rate, so that there is something to guard against. Watched and never climbed: P(z), and
whether the held-out judge still finds the noun and the background that the caption names.

A guard that slows the climb keeps more after as many moves, whatever else it does. So each guarded picture is also
compared with the unguarded one of its caption and seed at the first move looked at where that had as much reward.
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
from experiments.guarded import GROUPS, RATE, Guard, climb, labeled, line
from experiments.in_distribution_report import change, picture, rows
from experiments.report import interval, say
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
    chunks, seeds, moves = request.pick(4, 1, 1), request.pick(4, 2, 1), request.pick(30, 6, 1)
    steps, every = request.pick(10, 10, 2), request.pick(3, 2, 1)
    guards = request.pick(list(GUARDS), list(GUARDS), list(GUARDS)[::2])
    groups = request.pick(CONTRADICTED, CONTRADICTED, CONTRADICTED[:1])
    work = [(guard, group, chunk) for chunk in range(chunks) for group in groups for guard in guards]
    cells: dict[tuple[str, str, int], Cell] = {}
    for guard, group, chunk in work:
        key = {"guard": dataclasses.asdict(GUARDS[guard]), "group": group, "chunk": chunk, "seeds": seeds,
               "moves": moves, "model": built_in.version()}  # fmt: skip
        path = picture(request.folder, guard.replace(",", ""), group, chunk, moves)
        cells[guard, group, chunk] = Cell(key, partial(
            climb, GUARDS[guard], group, pairs(chunk, seeds), moves=moves, every=every, pictures=path, steps=steps,
        ))  # fmt: skip
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (guard, group, _), run in request.cells(cells).items():
        results.setdefault(group, {}).setdefault(guard, []).append(run)
    told = {group: {guard: summary(some, by[UNGUARDED]) for guard, some in by.items()} for group, by in results.items()}
    settings = {
        "nouns": 2 * chunks, "seeds": f"1000 to {999 + seeds}", "moves": moves, "rate": RATE,
        "stickers": {**built_in.CALL, "num_inference_steps": steps},
    }  # fmt: skip
    return Outcome(
        verdict=verdict(told),
        agreement=agreement(told),
        settings=settings,
        results=told,
        table=table(told),
        figure=draw(told),
        pictures={"pictures": contact(results, request, moves)},
    )


def summary(chunks: list[dict[str, Any]], free: list[dict[str, Any]]) -> dict[str, Any]:
    """A guard's numbers along the way, what changed from start to the last move and to the best, and how the last
    compares with the unguarded at equal reward."""
    told: dict[str, Any] = {"index": [place["index"] for place in chunks[0]["along"]]}
    for part in ("reward", "noun", "background"):
        every = [rows(chunks, part, index) for index in told["index"]]
        told[part] = [interval(one) for one in every] if all(every) else None
        told[f"{part}_change"] = change(chunks, part, -1)
        told[f"{part}_change_best"] = change(chunks, part, "best")
        told[f"{part}_equal_reward"] = equal_reward(chunks, free, part) if chunks is not free else None
    for part in ("probability", "strict"):
        every = [rows(chunks, part, index) for index in told["index"]]
        told[part] = [quartiles(one) for one in every]
    return told


def equal_reward(chunks: list[dict[str, Any]], free: list[dict[str, Any]], part: str) -> dict[str, float] | None:
    """How much more of something each last picture has than the unguarded one at the first look with as much reward;
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


def verdict(told: dict[str, Any]) -> str:
    """What each guard gained and lost by the last move."""
    said = []
    for group, by in told.items():
        each = []
        for guard, one in by.items():
            kept = [
                f"{part} right {one[part + '_change']['mean'] * 100:+.0f} points"
                for part in ("noun", "background") if one[f"{part}_change"]
            ]  # fmt: skip
            likely = one["probability"][-1]["middle"]
            same = [
                f"{say(one[part + '_equal_reward'], 0, 100)} points ({part})"
                for part in ("noun", "background") if one[f"{part}_equal_reward"]
            ]  # fmt: skip
            beside = f" (at equal reward {' and '.join(same)} beside none)" if same else ""
            each.append(f"{guard} {say(one['reward_change'], 2)} with P(z) {likely:.1g}, {', '.join(kept)}{beside}")
        said.append(f"{GROUPS[group][0]} on {GROUPS[group][1]}: " + "; ".join(each))
    said.append(equally(told))
    unjudged = any(one["noun"] is None for by in told.values() for one in by.values())
    return ("nouns unjudged, as the judge is not installed. " if unjudged else "") + ". ".join(said)


def equally(told: dict[str, Any]) -> str:
    """What regularization is worth at equal reward, in a sentence."""
    same = [
        one[f"{part}_equal_reward"] for by in told.values() for one in by.values() for part in ("noun", "background")
        if one[f"{part}_equal_reward"]
    ]  # fmt: skip
    better, worse = (
        sum(sign * one["mean"] > (one["half"] or 0) and one["mean"] != 0 for one in same) for sign in (1, -1)
    )
    if not better and not worse:
        return "At equal reward no guard keeps more than none: what regularization does here, stopping sooner does too"
    return f"At equal reward guards keep more beyond doubt in {better} of {len(same)} comparisons, less in {worse}"


def agreement(told: dict[str, Any]) -> Agreement:
    """Whether the unguarded climb loses what was asked for, and regularization keeps more of it: after as many moves,
    and at as much reward."""
    hacked, remedied, same = [], [], []
    for by in told.values():
        free, kept = by[UNGUARDED], list(by.values())[-1]
        parts = [f"{part}_change" for part in ("noun", "background") if free[f"{part}_change"]]
        hacked += [free[part]["mean"] + (free[part]["half"] or 0) < 0 for part in parts]
        remedied += [kept[part]["mean"] - (kept[part]["half"] or 0) > free[part]["mean"] for part in parts]
        equal = [kept[part.replace("change", "equal_reward")] for part in parts]
        same += [one["mean"] - (one["half"] or 0) > 0 for one in equal]
    if not any(hacked):
        return "contradicts"
    return "agrees" if all(r and e for h, r, e in zip(hacked, remedied, same, strict=True) if h) else "agrees in part"


def table(told: dict[str, Any]) -> list[list[str]]:
    """Changes from the start to the last move."""
    parts = ("noun", "background")
    beside = [f"{part} beside none at equal reward, points" for part in parts]
    lines = [["climbed", "guard", "reward", "noun right, points", "background right, points", "P(z), median",
              "strict P(z), median", *beside]]  # fmt: skip
    for group, by in told.items():
        for guard, one in by.items():
            cells, same = (
                [say(one[f"{part}_{what}"], 0, 100) if one[f"{part}_{what}"] else "" for part in parts]
                for what in ("change", "equal_reward")
            )
            lines.append([
                f"{GROUPS[group][0]} on {GROUPS[group][1]}", guard, say(one["reward_change"], 3), *cells,
                f"{one['probability'][-1]['middle']:.2g}", f"{one['strict'][-1]['middle']:.1g}",
                *same,
            ])  # fmt: skip
    return lines


def draw(told: dict[str, Any]) -> Figure:
    """Reward, P(z) and fidelity against moves, a row per reward."""
    parts = ("reward", "probability", "noun", "background")
    labels = ("reward", "P(z): median, quartiles", "noun right, %", "background right, %")
    figure = Figure(figsize=(15, 3.5 * len(told)), layout="constrained")
    for (group, by), row in zip(told.items(), figure.subplots(len(told), 4, squeeze=False), strict=True):
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
            axes.set(xlabel="moves", ylabel=label)
            axes.grid(alpha=0.3)
        row[1].set(yscale="log", ylim=(1e-30, 3))
        row[0].set_title(f"{GROUPS[group][0]} for '... on a {GROUPS[group][1]} background'", fontsize=9)
        row[0].legend(fontsize=8)
    return figure


def contact(results: dict[str, Any], request: Request, moves: int) -> Image.Image:
    """The first chunk of each reward: the starts, and the last of each guard."""
    lines = []
    for group, by in results.items():
        for number, guard in enumerate(by):
            path = picture(request.folder, guard.replace(",", ""), group, 0, moves)
            what = f"{GROUPS[group][0]} on {GROUPS[group][1]}"
            if number == 0:
                lines.append((f"{what}: start", line(path, 0)))
            lines.append((f"{what}: {guard}, move {moves}", line(path, 1)))
    return labeled(lines)


if __name__ == "__main__":
    main("reward_hacking", CLAIM, conduct)
