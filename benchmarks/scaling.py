"""What a second worker brings, and where more of them would stop bringing anything.

Measured, in one run: throughput of `--engine ray` with 1 and 2 single-thread workers that hold the model already, in
turns, on equal packs of the built-in model; next to them 1 and 2 plain processes that each do the packs of one worker,
as what the machine allows; what a beat costs the driver; and what a run directory holds.

Modeled, from these and from assumptions that are written next to the results: the time until N workers have read the
weights, the share of the driver's time that beats take, and of the storage's bandwidth that runs take; each says where
it would be the limit.

    python -m benchmarks.scaling [--small]
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import format_ratio, in_turns, ratio, write
from noiseward.runs import RunSpec
from noiseward.sweep.cluster import start
from noiseward.sweep.engine import Local
from noiseward.sweep.pack_task import PackTask
from noiseward.sweep.packs import Pack
from noiseward.sweep.ray import RayEngine

GOAL = 1.7

# A cluster that is not available here: each of these is an assumption, and the page says so.
GPUS = 1000
PACK_SECONDS = 300.0  # per pack of one image: five minutes, the longest budget of the DNO paper's comparison
PACK_STEPS = 50
WEIGHTS = 7e9  # bytes, SDXL in half precision
STORAGE = 10e9  # bytes per second of the shared file system
OPERATIONS = 2e4  # files it can replace per second
BEAT = 1e-3  # seconds a beat costs the driver, unless measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="2 steps per pack, 2 sampler steps, 1 turn")
    parser.add_argument("--alone", type=int, nargs=4, help="be a plain process: turns, packs, steps, sampler steps")
    arguments = parser.parse_args()
    if arguments.alone:
        be_process(*arguments.alone)
        return
    torch.set_num_threads(1)
    steps, inference, turns, each = (2, 2, 1, 2) if arguments.small else (8, 10, 5, 4)
    shape = (each, steps, inference)
    start(cores=2)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(RayEngine())
        helpers = [stack.enter_context(open_process(turns + 1, shape)) for _ in range(2)]
        both = packs(2 * each, steps, inference)
        warm(engine, steps, inference)
        spent = list[tuple[float, int]]()
        # equal work per worker: one does `each` packs, two do twice as many
        seconds = in_turns(
            {
                "ray, 1": lambda: run_packs(engine, 1, both[:each], spent),
                "ray, 2": lambda: run_packs(engine, 2, both, spent),
                "plain, 1": partial(run_together, helpers[:1]),
                "plain, 2": partial(run_together, helpers),
            },
            turns,
        )
    gains = {
        name: {key: 2 / part for key, part in invert(ratio(seconds[f"{name}, 2"], seconds[f"{name}, 1"])).items()}
        for name in ("ray", "plain")
    }
    beat = sum(cost for cost, _ in spent) / sum(count for _, count in spent)
    held = measure_run_directory(steps, inference)
    settings = {"packs per worker": each, "steps": steps, "num_inference_steps": inference, "turns": turns}
    results = {"gains": gains, "beat": beat, "run directory": held, "model": model(beat, held)}
    write("scaling", settings=settings, results=results, text=page(settings, results))


def invert(part: dict[str, float]) -> dict[str, float]:
    """A ratio whose inverse is meant: its least is the inverse's most."""
    return {"median": part["median"], "least": part["most"], "most": part["least"]}


def packs(count: int, steps: int, inference: int) -> list[Pack]:
    """Equal packs of one image of the built-in model."""
    call = {"num_inference_steps": inference, "guidance_scale": 3.0, "eta": 1.0}
    specs = [
        RunSpec(prompt=("a duck",), reward=("brightness",), steps=steps, seed=seed, watch=(), call=call)
        for seed in range(count)
    ]
    return [Pack(f"{number:04d}", ("duck",), spec) for number, spec in enumerate(specs)]


def warm(engine: RayEngine, steps: int, inference: int) -> None:
    """Let both workers load the model, each in a pack it cannot share."""
    run_packs(engine, 2, packs(2, steps, inference), [])


def run_packs(engine: RayEngine, workers: int, todo: Sequence[Pack], spent: list[tuple[float, int]]) -> None:
    """Do packs with some workers, in a temporary folder; what it cost this process goes into `spent`."""
    engine.workers = workers
    with tempfile.TemporaryDirectory() as folder:
        before = time.process_time()
        beats = list(engine.run([PackTask(pack, Path(folder)) for pack in todo]))
        spent.append((time.process_time() - before, len(beats)))
        assert sum(beat.state == "done" for beat in beats) == len(todo), [beat.error for beat in beats if beat.error]


@contextlib.contextmanager
def open_process(turns: int, shape: tuple[int, int, int]) -> Iterator[subprocess.Popen[str]]:
    """A process that does its packs once per line it is sent."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--alone", str(turns), *map(str, shape)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def be_process(turns: int, count: int, steps: int, inference: int) -> None:
    """Be such a process: the first turn is the warm one."""
    torch.set_num_threads(1)
    engine, todo = Local(), packs(count, steps, inference)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            beats = engine.run([PackTask(pack, Path(folder)) for pack in todo])
            assert [beat.state for beat in beats].count("done") == count
        print("done", flush=True)


def run_together(processes: Sequence[Any]) -> None:
    """One turn of some plain processes at the same time."""
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout.readline() == "done\n"


def measure_run_directory(steps: int, inference: int) -> dict[str, int]:
    """How many files a run directory holds in the end, and of how many bytes."""
    with tempfile.TemporaryDirectory() as folder:
        (pack,) = packs(1, steps, inference)
        list(Local().run([PackTask(pack, Path(folder))]))
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        return {"bytes": sum(file.stat().st_size for file in files), "files": len(files)}


def model(beat: float, held: dict[str, int]) -> dict[str, Any]:
    """The arithmetic for a large cluster; see the page it is written to."""
    every = max(0.5, GPUS / 100)  # as the engine spaces beats
    beats = PACK_SECONDS / every + 2
    rate = GPUS / PACK_SECONDS  # packs per second
    cost = max(beat, BEAT)
    writes = PACK_STEPS * 4 + held["files"]  # log, best, latest, status; and what is written once
    return {
        "weights: seconds until all have read them": GPUS * WEIGHTS / STORAGE,
        "driver: share of its time": rate * beats * cost,
        "driver: workers at which it is full": (1 / cost - 100) * PACK_SECONDS / 2,  # 100 beats a second, 2 a pack
        "files: share of what storage can do": rate * writes / OPERATIONS,
        "files: workers at which it is full": GPUS * OPERATIONS / (rate * writes),
        "packs per hour": 3600 * rate,
    }


def page(settings: dict[str, Any], results: dict[str, Any]) -> str:
    """The results as people read them."""
    gains, found = results["gains"], results["model"]
    verdict = "met" if gains["ray"]["median"] >= GOAL else "missed"
    every, weights = max(0.5, GPUS / 100), found["weights: seconds until all have read them"]
    driver_share, replaced = found["driver: share of its time"], found["files: share of what storage can do"]
    driver, files = found["driver: workers at which it is full"], found["files: workers at which it is full"]
    return f"""# Two workers, and a thousand

`python -m benchmarks.scaling`. {", ".join(f"{name} {value}" for name, value in settings.items())}; the built-in model.

## Measured: work per second of two single-thread workers, as a multiple of one

| | median (least to most of the turns) |
|---|---|
| `--engine ray` | {format_ratio(gains["ray"])} |
| plain processes | {format_ratio(gains["plain"])} |

The goal of {GOAL} is {verdict}. Both hold the model before they are timed. What two plain processes
lack to 2 is the machine's own. A beat costs the driver {results["beat"] * 1e3:.2g} ms of processor time;
the run directory of a pack ends with {results["run directory"]["files"]} files.

## Arithmetic: {GPUS} GPUs

No such cluster is available: nothing below was run. Assumed:

* one image per pack, {PACK_SECONDS:.0f} s and {PACK_STEPS} steps each;
* {WEIGHTS / 1e9:g} GB of weights;
* a shared file system of {STORAGE / 1e9:g} GB/s and {OPERATIONS:g} file replacements per second;
* {max(results["beat"], BEAT) * 1e3:.2g} ms of the driver per beat: what was measured, but at least {BEAT * 1e3:g}.

| | for {GPUS} GPUs | full at |
|---|---|---|
| weights, all read from the shared file system | {weights:.0f} s, once | |
| driver, a beat per worker every {every:g} s | {driver_share:.1%} of its time | {driver:.2g} workers |
| files: a step replaces 4, an end writes the rest | {replaced:.1%} | {files:.2g} workers |

That is {found["packs per hour"]:.0f} images per hour. Reading the weights grows with the number of workers; read from
a disk of each node they cost nothing here, and past the start they are never read again. Beats are
spaced by the number of workers, so the driver's share grows with the number of packs alone. Packs do
not talk to each other: nothing else grows.
"""


if __name__ == "__main__":
    main()
