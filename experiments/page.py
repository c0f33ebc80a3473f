"""docs/paper.md, made of what the experiments wrote: nothing in it is written by hand.

    python -m experiments.page

An experiment without results is listed with the command that makes them.
"""

from __future__ import annotations

import importlib
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from experiments.claim import Claim
from experiments.report import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "paper.md"
ORDER = (
    "ring", "theorem1", "ode_vs_sde", "concentration", "reward_hacking", "in_distribution", "black_box", "table1",
    "sdxl", "cost",
)  # fmt: skip
HEAD = """\
# The paper, reproduced

The claims of [Inference-Time Alignment of Diffusion Models with Direct Noise
Optimization](https://arxiv.org/abs/2405.18881) (Tang et al., ICML 2025), next to this project's measurements. Each
section is one script in [`experiments/`](../experiments); this page is made from their results by `python -m
experiments.page` and is not edited. `±` is the half-width of a 95 % interval, by Student's t. For shares it is 0
where all cases agree; then up to 39 % of further cases may differ if there were 6, 19 % if 16, and 5 % if 80
(Wilson). The paper's claims are in our words; its tables of Stable Diffusion rewards are not repeated here, because
nothing here was run on those weights. Each section names the version of the built-in model, stickers (the first,
measured before 0.3, does not use it).

`scripts/experiments --small` runs all of them in a shorter form, in ten minutes on two cores, `scripts/experiments` in
full; both continue where they were interrupted.
"""


def claims() -> dict[str, Claim]:
    """What each experiment checks."""
    return {name: importlib.import_module(f"experiments.{name}").CLAIM for name in ORDER}


def outcome(name: str, results: Path = RESULTS) -> dict[str, Any] | None:
    """What an experiment wrote, if it is in this form."""
    path = results / f"{name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if "agreement" in found else None


def section(name: str, claim: Claim, found: dict[str, Any] | None, results: Path = RESULTS) -> str:
    """One experiment: what the paper says, what was found, the numbers, the image."""
    lines = [f"## {claim.title}", "", fill(f"**The paper**: {claim.paper} ({claim.source})."), ""]
    command = f"`python -m experiments.{name}`, about {claim.minutes} minutes on {claim.where}"
    if found is None:
        return "\n".join([*lines, f"*Not run in full yet*: {command}.", ""])
    lines += [fill(f"**Found** ({found['agreement']}): {found['verdict']}."), ""]
    if found.get("table"):
        head, *rows = found["table"]
        lines += ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)] + [""]
    for end in ("png", "gif"):
        if (results / f"{name}.{end}").exists():
            lines += [f"![{claim.title}](../experiments/results/{name}.{end})", ""]
    for path in sorted(results.glob(f"{name}_*.png")):
        shows = path.stem.removeprefix(f"{name}_").replace("pictures", "images")
        lines += [f"![{shows}](../experiments/results/{path.name})", ""]
    settings = "; ".join(f"{key} {format_setting(value)}" for key, value in found["settings"].items())
    versions = ", ".join(f"{key} {value}" for key, value in found["versions"].items())
    return "\n".join([*lines, fill(f"*How*: {command}. Settings: {settings}. Versions: {versions}."), ""])


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    every = claims()
    lines = [HEAD, "| claim | found | |", "|---|---|---|"]
    for name, claim in every.items():
        found = outcome(name, results)
        anchor = "".join(c for c in claim.title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
        lines.append(f"| [{claim.title}](#{anchor}) | {found['agreement'] if found else 'not run yet'} | `{name}` |")
    body = [section(name, claim, outcome(name, results), results) for name, claim in every.items()]
    return re.sub(r"(?<=\d) %", "%", "\n".join([*lines, "", *body]))


def fill(text: str) -> str:
    """A paragraph in lines of 120."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def format_setting(value: Any) -> str:
    """A setting in a sentence."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {format_setting(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(format_setting(one) for one in value)
    return str(value)


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
