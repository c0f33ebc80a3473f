"""What the black-box estimators cost compared with their parts, on the built-in model.

Time: `Hybrid2` with q candidates against q samplings in one batch without a graph and one `Backprop` step, in turns;
`ZerothOrder` against q + 1 samplings; `Hybrid1` against the `Backprop` step alone. Memory: the peak of fresh processes
that make one step each, of 3 sampler steps, with more and more candidates at the same chunk.

    python -m benchmarks.estimators [--small]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from functools import partial

import torch

from benchmarks.timing import format_ratio, in_turns, ratio, write
from noiseward import Backprop, Hybrid1, Hybrid2, ZerothOrder
from noiseward.optimizers.gradient import Estimator
from noiseward.options.run import Settings
from noiseward.problem import Problem, prepare

SAMPLES, CHUNK, SCALE = 16, 16, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="4 sampler steps, 3 turns, 1 process each")
    parser.add_argument("--peak", type=int, nargs=2, metavar=("SAMPLES", "CHUNK"), help="print a process's peak in MiB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        samples, chunk = arguments.peak
        estimate(problem(3), Hybrid2(samples, SCALE, chunk=chunk))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    steps, turns, processes = (4, 3, 1) if arguments.small else (10, 7, 3)
    subject = problem(steps)
    many = subject.objective.sampler.init(SAMPLES, seed=0)
    one = subject.noise

    def sample(noise: torch.Tensor) -> None:
        with torch.no_grad():
            subject.objective.sampler(noise, "a duck")

    seconds = in_turns(
        {
            "16 samplings": partial(sample, many),
            "1 sampling": partial(sample, one),
            "Backprop": partial(estimate, subject, Backprop()),
            "Hybrid2": partial(estimate, subject, Hybrid2(SAMPLES, SCALE, chunk=CHUNK)),
            "ZerothOrder": partial(estimate, subject, ZerothOrder(SAMPLES, SCALE, chunk=CHUNK)),
            "Hybrid1": partial(estimate, subject, Hybrid1(SAMPLES, SCALE)),
        },
        turns,
    )
    parts = {
        "Hybrid2": [a + b for a, b in zip(seconds["16 samplings"], seconds["Backprop"], strict=True)],
        "ZerothOrder": [a + b for a, b in zip(seconds["16 samplings"], seconds["1 sampling"], strict=True)],
        "Hybrid1": seconds["Backprop"],
    }
    ratios = {name: ratio(seconds[name], part) for name, part in parts.items()}
    peaks = {
        f"{samples} candidates, chunk {chunk}": [peak(samples, chunk) for _ in range(processes)]
        for samples, chunk in ((16, 16), (32, 16), (64, 16), (64, 64))
    }
    settings = {
        "model": "stickers", "num_inference_steps": steps, "samples": SAMPLES, "chunk": CHUNK, "turns": turns,
        "processes": processes, "threads": 1, "small": arguments.small,
    }  # fmt: skip
    results = {"ratios": ratios, "seconds": seconds, "peak_mib": peaks}
    write("estimators", settings=settings, results=results, text=page(settings, ratios, peaks))


def problem(steps: int) -> Problem:
    """A duck, darker; the reward is differentiable, so that `Backprop` can be timed on it too."""
    settings = Settings(steps=1, memory="fast", num_inference_steps=steps)
    return prepare("stickers", "a duck", "darkness", settings)


def estimate(subject: Problem, estimator: Estimator) -> None:
    estimator(subject.objective, subject.noise, subject.seeds)


def peak(samples: int, chunk: int) -> float:
    """Peak memory of a fresh process that makes one step, in MiB."""
    command = [sys.executable, "-m", "benchmarks.estimators", "--peak", str(samples), str(chunk)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def page(settings: dict[str, object], ratios: dict[str, dict[str, float]], peaks: dict[str, list[float]]) -> str:
    """The tables people read."""
    of = {
        "Hybrid2": "16 samplings in one batch + one Backprop step",
        "ZerothOrder": "16 samplings in one batch + one more",
        "Hybrid1": "one Backprop step",
    }
    lines = [
        f"# Black-box estimators, {settings['samples']} candidates, built-in model, "
        f"{settings['num_inference_steps']} sampler steps",
        "",
        f"Time of a step over the time of its parts; median (least to most) of {settings['turns']} turns, one thread. "
        "`python -m benchmarks.estimators` regenerates this page.",
        "",
        "| estimator | parts | ratio |",
        "|---|---|---|",
        *(f"| {name} | {of[name]} | {format_ratio(found)} |" for name, found in ratios.items()),
        "",
        f"Peak memory of fresh processes that make one `Hybrid2` step, median of {settings['processes']}:",
        "",
        "| | MiB |",
        "|---|---|",
        *(f"| {name} | {statistics.median(found):.0f} ({min(found):.0f} to {max(found):.0f}) |"
          for name, found in peaks.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
