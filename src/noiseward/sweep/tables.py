"""The tables of a comparison as text."""

from __future__ import annotations

from collections.abc import Sequence

from noiseward.loop.plausible import Plausible
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.measure import Line, Measured

__all__ = ["describe", "describe_start", "format_budget", "format_lines", "markdown"]


def describe(comparison: Comparison) -> str:
    """What was done, in a few sentences."""
    base, amount = comparison.base, f"{comparison.amount:g}"
    cost = (
        f"{amount} denoiser calls per image, a backward counting 2 and a recomputed forward 1 (decoding and rewards "
        "are not counted, but take their share of the seconds)"
        if comparison.kind == "nfe"
        else f"{amount} seconds per pack of up to 4 images, one pack at a time"
    )
    cases = f"seeds {base.seed} to {base.seed + comparison.seeds - 1}"
    if count := len(comparison.prompts):
        cases = f"{count} prompt{'s' if count > 1 else ''} x {cases}"
    return (
        f"Model {base.model}; optimized: {' + '.join(base.reward)}; {cases}; {cost}. Every method starts from the same "
        "noise, and the best so far counts. Intervals are 95%; methods share a rank unless one is significantly "
        "better (95% interval of the paired difference)."
    )


def describe_start(measured: Measured) -> str:
    """The reward of the noise that all methods start from."""
    if not measured.start.n:
        return "At the start no requirement is met."
    return f"At the start the reward is {measured.start}."


def format_lines(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table as text."""
    held = list(lines[0].held) if lines else []
    diverse = any(line.diversity is not None for line in lines)
    tested = [f"P(image) < {Plausible.image:g}"] if any(line.implausible is not None for line in lines) else []
    required = ["not met"] if any(line.unmet for line in lines) else []
    head = [
        "rank",
        "method",
        *required,
        "gain",
        "strict < 0.001",
        *tested,
        *(f"{name}, change" for name in held),
        "reward",
        "P(z)",
    ]
    head += [*(["diversity"] if diverse else []), "peak MiB", "s"]
    table = []
    for line in lines:
        cells = [str(line.rank), line.method, *([f"{line.unmet:.0%}"] if required else [])]
        cells += [str(line.gain), f"{line.suspect:.0%}"]
        cells += ["not tested" if line.implausible is None else f"{line.implausible:.0%}"] if tested else []
        cells += [f"{now}, {change.mean:+.2g}" for now, change in line.held.values()]
        cells += [str(line.reward), f"{line.probability.mean:.2g}"]
        cells += [f"{line.diversity:.3g}" if line.diversity is not None else ""] if diverse else []
        cells += ["not measured" if line.memory is None else f"{line.memory / 2**20:.0f}", f"{line.seconds:.1f}"]
        table.append(cells)
    return head, table


def markdown(comparison: Comparison, measured: Measured) -> str:
    """The tables, and what does not apply."""
    parts = [describe(comparison), describe_start(measured)]
    for share, lines in measured.table.items():
        if lines:
            head, cells = format_lines(lines)
            table = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells])
            parts.append(f"**{format_budget(comparison, share)}**\n\n{table}")
    parts += [measured.note] if measured.note else []
    parts += [f"`{method}` does not apply: {why}" for method, why in measured.refused.items()]
    return "\n\n".join(parts) + "\n"


def format_budget(comparison: Comparison, share: str) -> str:
    """A share of the budget as text."""
    unit = "denoiser calls" if comparison.kind == "nfe" else "seconds"
    return f"{float(share) * comparison.amount:g} {unit}"
