"""What came out of a run, as `align` ends with and `show` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.cli.columns import print_table
from noiseward.errors import shorten
from noiseward.loop.budget import Status
from noiseward.loop.describe import ADVICE, SUSPECT, UNTESTED_IMAGES, describe_peak, describe_stall
from noiseward.loop.hacking import find_hacking
from noiseward.rewards.shortfall import describe_reward, describe_shortfall
from noiseward.runs.alive import describe_ending
from noiseward.samplers.cost import NFE

if TYPE_CHECKING:
    from rich.console import Console

    from noiseward.options.run import RunSpec

__all__ = ["report"]

LONGEST = 120  # characters of a prompt
IMAGES = ("initial", "best", "pareto", "strip.png", "plot.png")


def report(
    spec: RunSpec,
    status: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    folder: Path,
    console: Console,
    *,
    state: str = "done",
) -> None:
    """Print a line per row (reward before and after, how plausible it is), why rows ended, and where the images are.

    Arguments:
        spec: what was asked.
        status: how it ended, as `runs.finish.summarize` gives it.
        steps: records, as `Step.record` gives them.
        folder: the run directory.
        console: where to print.
        state: of the run, as `find_state` gives it.
    """
    prompts = [prompt for prompt in spec.prompt or ("",) for _ in range(spec.batch)]
    watched = [step for step in steps if step.get("watched")]
    panel = list(watched[0]["watched"]) if watched else []
    head = ("row", "prompt", "reward before", "best", "P(z)", "P(image)", "at step", "ended by")
    table, held_out = list[list[str]](), list[list[str]]()
    by_index, images = {step["index"]: step for step in steps}, status.get("image") or [None] * len(prompts)
    for row, (prompt, best, found) in enumerate(zip(prompts, status["best"], status["found"], strict=True)):
        before, likely = steps[0]["reward"][row], by_index[found]["probability"][row]
        ended = describe_ending(status["rows"][row], state)
        near = [step["watched"] for step in watched if step["index"] <= found]  # up to the best step
        image = "" if images[row] is None else f"{images[row]:.2g}"
        rewards = [describe_reward(before), describe_reward(best)]
        table.append([str(row), shorten(prompt, LONGEST), *rewards, f"{likely:.2g}", image, str(found), ended])
        held_out.append([str(row), *(f"{near[0][name][row]:.4g} -> {near[-1][name][row]:.4g}" for name in panel)])
    drop = ("P(image)", "at step", "P(z)", "prompt", "ended by", "reward before")
    print_table(head, table, console, left=("prompt", "ended by"), cut=("prompt",), drop=drop)
    if panel:
        console.print("held-out rewards, before and at the best step:", highlight=False)
        print_table(("row", *panel), held_out, console, drop=panel[::-1])
    for name in dict.fromkeys(status["rows"]):
        ended, why = describe_ending(name, state), Status[name].value
        if name == "RUNNING" and ended != "running":
            why = f"{ended} at step {status['step']}: the best so far was kept"
        repeated = why.startswith(ended) or why.endswith(ended)
        console.print(why if repeated else f"{ended}: {why}", highlight=False)
    if untested := status.get("untested"):
        console.print(f"{UNTESTED_IMAGES}: {untested}", highlight=False, soft_wrap=True)
    for row, (strict, aspect) in enumerate(zip(status.get("strict", []), status.get("suspect", []), strict=True)):
        if strict < SUSPECT:
            console.print(f"row {row}: strict P(z) {strict:.1g} ({aspect}): {ADVICE}", highlight=False, soft_wrap=True)
    for row in range(len(prompts)):
        terms = {name: scores[row] for name, scores in by_index[status["found"][row]]["terms"].items()}
        if missing := describe_shortfall(terms):
            console.print(f"row {row}: {missing}: no sample met all", highlight=False, soft_wrap=True)
        if peak := describe_peak(steps, row):
            console.print(f"row {row}: {peak}", highlight=False, soft_wrap=True)
        if note := describe_stall(steps, row):
            console.print(f"row {row}: {note}", highlight=False, soft_wrap=True)
        if (hacking := find_hacking(steps, row)) and hacking.since <= status["found"][row]:
            console.print(f"row {row}: {hacking}", highlight=False, soft_wrap=True)
    if status.get("dead_draws"):
        draws = ", ".join(name.replace("step ", "denoising step ") for name in status["dead_draws"])
        console.print(f"noise of the sampler without effect on the image, left alone: {draws}", highlight=False)
    if (folder / "answers.jsonl").exists():
        from noiseward.runs.answers import describe_answers

        for line in describe_answers(folder, [folder / "best" / f"{row:02d}.png" for row in range(len(prompts))]):
            console.print(line, highlight=False, soft_wrap=True)
    nfe = NFE(**steps[-1]["nfe"])
    again = f", {nfe.recomputed} of them again for a gradient" if nfe.recomputed else ""
    calls = f"{nfe.forward + nfe.recomputed} denoiser calls forward{again}, {nfe.backward} backward (each counts 2)"
    closing = f"{len(steps)} evaluations in {status['seconds']:.1f} s; NFE {nfe.cost:,} per row: {calls}"
    console.print(closing, highlight=False, soft_wrap=True)
    for name in IMAGES:
        if (folder / name).exists():
            console.print(str(folder / name), highlight=False, soft_wrap=True)
