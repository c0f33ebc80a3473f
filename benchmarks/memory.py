"""Peak memory of one `Backprop` step in fresh processes, by memory mode and number of sampler steps.

Each number is the largest resident size of a process that makes one step, less that of one that only samples. Between
20 and 50 sampler steps, what is kept in addition to the latents shows as MB per added step.

    python -m benchmarks.memory [--small]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch

from benchmarks.models import small_sd
from benchmarks.step import CALL, directions
from benchmarks.timing import write
from noiseward import DiffusersSampler
from noiseward.samplers.memory import MODES

LATENT = 4 * 4 * 16 * 16 / 1e6  # MB, one in float32


def measure(mode: str, steps: int) -> float:
    """Peak MB of this process, which makes one step; in mode `none` it only samples."""
    torch.set_num_threads(1)
    sampler = DiffusersSampler(small_sd(), memory="fast" if mode == "none" else mode, num_inference_steps=steps, **CALL)
    noise = torch.randn(1, steps + 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    if mode == "none":
        with torch.no_grad():
            sampler.pipe("a", num_inference_steps=steps, latents=noise[:, 0], **CALL)
    else:
        directions(sampler, noise)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure_in_process(mode: str, steps: int) -> float:
    """`measure`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--once", mode, str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="2 and 4 sampler steps, one process each")
    parser.add_argument("--once", nargs=2, metavar=("MODE", "STEPS"), help="print the peak of this process in MB")
    given = parser.parse_args()
    if given.once:
        print(measure(given.once[0], int(given.once[1])))
        return
    (few, many), processes = ((2, 4), 1) if given.small else ((20, 50), 3)
    found = {
        mode: {steps: [measure_in_process(mode, steps) for _ in range(processes)] for steps in (few, many)}
        for mode in ("none", *MODES)
    }
    settings = {"sampler steps": (few, many), "processes": processes, "threads": 1, "small": given.small, **CALL}
    write("memory", settings=settings, results=found, text=page(found, few, many), small=given.small)


def page(found: dict[str, dict[int, list[float]]], few: int, many: int) -> str:
    """The table people read."""
    middle: dict[str, dict[int, Any]] = {
        mode: {steps: statistics.median(peaks) for steps, peaks in by_steps.items()} for mode, by_steps in found.items()
    }
    lines = [
        "# Peak memory of a step, in fresh processes",
        "",
        "A Stable Diffusion of 7.1 M weights in the denoiser, 64 x 64 images, guidance on. MB beyond a process that "
        f"only samples ({middle['none'][few]:.0f} MB), median of {len(found['none'][few])}. A latent in float32 is "
        f"{LATENT:.3f} MB. `python -m benchmarks.memory` regenerates this page.",
        "",
        f"| mode | {few} steps | {many} steps | MB per added step |",
        "|---|---|---|---|",
    ]
    for mode in MODES:
        first, last = (middle[mode][steps] - middle["none"][few] for steps in (few, many))
        lines.append(f"| {mode} | {first:.0f} | {last:.0f} | {(last - first) / (many - few):.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
