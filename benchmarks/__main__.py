"""Run every benchmark, put its page into `benchmarks/RESULTS.md`, and the table of full-size models into the docs.

    python -m benchmarks                    # all of them, about an hour on one quiet core
    python -m benchmarks step memory        # some of them
    python -m benchmarks --gather           # none: put together the pages that are there

`gpu`, `gpu_compiled` and `on_card` are run where there is a GPU, `scaling` where Ray is installed, `against` where git
knows the commit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec

import torch

from benchmarks.against import is_known
from benchmarks.timing import RESULTS

ORDER = (
    "step", "memory", "counted", "gpu", "gpu_compiled", "on_card", "growth", "regularizers", "estimators", "scaling",
    "against",
)  # fmt: skip
OUT = RESULTS.parent / "RESULTS.md"
DOCS = RESULTS.parents[1] / "docs" / "cost.md"
FROM, TO = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ORDER, []], help="which; default: all")
    parser.add_argument("--gather", action="store_true", help="run none")
    given = parser.parse_args()
    for name in () if given.gather else given.names or ORDER:
        card, ray = torch.cuda.is_available(), find_spec("ray") is not None
        here = {"gpu": card, "gpu_compiled": card, "on_card": card, "scaling": ray, "against": is_known()}
        if here.get(name, True):
            print(f"-- {name}", flush=True)
            more = ["--compile", "regional", "--name", name] if name == "gpu_compiled" else []
            module = "gpu" if name == "gpu_compiled" else name
            subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *more], check=True)
    gather()


def gather() -> None:
    """Write the pages that are there into one."""
    parts = [
        "# Benchmarks",
        "",
        "`python -m benchmarks` runs what is below and writes this page. Times are ratios within one run; what was "
        "computed and not measured says so.",
    ]
    for name in ORDER:
        page = RESULTS / f"{name}.md"
        if page.exists():
            parts += ["", "#" + page.read_text(encoding="utf-8").strip()]
        else:
            parts += ["", f"## {name}", "", f"Not run yet: `python -m benchmarks.{name}`."]
    OUT.write_text("\n".join(parts) + "\n", encoding="utf-8")
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(FROM)
    DOCS.write_text(f"{before}{FROM}\n{table()}\n{TO}{rest.partition(TO)[2]}", encoding="utf-8")


def table() -> str:
    """Seconds and GB of a step by model, steps and mode: measured on a GPU where that was done, and computed."""
    lines = ["| model | sampler steps | mode | seconds per step | GB | |", "|---|---|---|---|---|---|"]
    if (RESULTS / "gpu.json").exists():
        measured = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
        for row in measured["results"]:
            output = f"{row['seconds']:.2g} | {row['GB']:.1f}" if "share" in row else "out of memory |"
            where = f"measured, {measured['settings']['card']}"
            lines.append(f"| {row['model']} | {row['steps']} | {row['mode']} | {output} | {where} |")
    computed = json.loads((RESULTS / "counted.json").read_text(encoding="utf-8"))
    rate = computed["settings"]["rate"]
    for model, by_steps in computed["results"]["steps"].items():
        for steps, modes in by_steps.items():
            for mode, found in modes.items():
                if "bytes" in found:
                    output = f"{found['flops'] / rate:.2g} | {found['bytes'] / 1e9:.1f}"
                    lines.append(f"| {model} | {steps} | {mode} | {output} | computed |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
