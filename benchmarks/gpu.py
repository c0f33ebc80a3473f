"""Stable Diffusion 1.5 and SDXL at full size on a GPU: seconds per step, peak memory, share of the card's matrix rate.

Pipelines are built from configs with random weights, in bfloat16 with torch's fused attention; nothing is downloaded.
In the same run the published procedure (`published.py`, its checkpoint mended, no loss scaling) makes the same step.
The matrix rate is that of a large bfloat16 product on this card; a step's operations are those counted on the meta
device (`counted.py`), so that the share says how much of what the card can do went into work that has to be done.

    python -m benchmarks.gpu [--models sd15 sdxl] [--modes fast balanced low] [--steps 20 50] [--turns 3]
    python -m benchmarks.gpu --compile regional --name gpu_compiled   # as compile=True does
    python -m benchmarks.gpu --channels-last
    python -m benchmarks.gpu --toy                        # the same code at toy size, anywhere; says so, writes nothing
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import counted, sizes
from benchmarks.published import Published
from benchmarks.timing import write
from noiseward import Backprop, DiffusersSampler, FunctionReward, Objective, Seeds
from noiseward.samplers.memory import MODES, is_out_of_memory
from tests.families import unets

BRIGHTNESS = FunctionReward(lambda images: images.float().mean((1, 2, 3)), name="brightness")
FULL = {"sd15": ("SD 1.5, 512 px", sizes.sd15, 512, 64), "sdxl": ("SDXL, 1024 px", sizes.sdxl, 1024, 128)}
TOYS = {"sd15": ("toy SD", unets.sd1, 16, 8), "sdxl": ("toy SDXL", unets.sdxl, 16, 8)}
GOAL = {"share": 0.45, "GB": 24.0}  # of the matrix rate; for SDXL with 50 steps


def measure_time(do: Callable[[], object], device: str, turns: int) -> dict[str, float] | str:
    """Median seconds and peak GB after one turn to warm up, or that memory ran out."""
    seconds = []
    try:
        do()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(turns):
            _wait(device)
            begun = time.perf_counter()
            do()
            _wait(device)
            seconds.append(time.perf_counter() - begun)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory"
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else float("nan")
    return {"seconds": statistics.median(seconds), "GB": peak}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations per second of a product of two square matrices."""
    one, two = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    found = measure_time(lambda: [one @ two for _ in range(10)], device, 5)
    assert isinstance(found, dict)
    return 10 * 2 * size**3 / found["seconds"]


def build_pipeline(build: Callable[[], Any], device: str, given: argparse.Namespace) -> Any:
    """A pipeline on the device, as asked."""
    torch.manual_seed(0)
    pipe = build()
    pipe.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    if given.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if given.compile == "regional":
        pipe.unet.compile_repeated_blocks()
    elif given.compile:
        pipe.unet = torch.compile(pipe.unet, mode=given.compile)
    return pipe


def step(sampler: DiffusersSampler, noise: torch.Tensor) -> None:
    Backprop()(Objective(sampler, BRIGHTNESS, "a"), noise, Seeds((0,)))


def measure_model(name: str, device: str, given: argparse.Namespace, rate: float) -> list[dict[str, Any]]:
    """The rows of one model."""
    title, build, pixels, side = (TOYS if given.toy else FULL)[name]
    pipe, rows = build_pipeline(build, device, given), []
    for steps in given.steps:
        call = {"num_inference_steps": steps, "eta": 1.0, "guidance_scale": 5.0, "height": pixels, "width": pixels}
        work = counted.steps_of(counted.count_model(build, side), steps)
        plain = Published(
            pipe, lambda images: images.mean((1, 2, 3)), steps=steps, size=(side, side), decode_each=name == "sd15"
        )
        noise = torch.randn(steps + 1, 4, side, side, device=device)
        leaf = noise.clone().requires_grad_()
        runs: dict[str, Callable[[], object]] = {"published": partial(plain.step, leaf)}
        for mode in given.modes:
            runs[mode] = partial(step, DiffusersSampler(pipe, memory=mode, **call), noise[None])
        for mode, run in runs.items():
            row: dict[str, Any] = {"model": title, "steps": steps, "mode": mode}
            found = measure_time(run, device, given.turns)
            if isinstance(found, str):
                row["failed"] = found
            else:
                need = work["balanced" if mode == "published" else mode]["flops"]
                row |= {**found, "share": need / found["seconds"] / rate, "PFLOP": need / 1e15}
            rows.append(row)
            print(row, flush=True)
            if device == "cuda":
                torch.cuda.empty_cache()
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 0 when the goals are met, or when the run is a toy's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="toy size, anywhere")
    parser.add_argument("--models", nargs="+", choices=FULL, default=[*FULL])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 50])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", choices=("regional", "default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--name", default="gpu", help="of the results, where not all is measured")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not given.toy and device == "cpu":
        parser.error("no GPU here: run with --toy")
    if given.toy:
        print(f"a toy's run on {device}: it shows that this works, and nothing about speed")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rate = matrix_rate(device, dtype, 256 if given.toy else 8192)
    rows = [row for name in given.models for row in measure_model(name, device, given, rate)]
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    asked = sys.argv[1:] if arguments is None else arguments
    text = page(card, rate, rows, " ".join(["python -m benchmarks.gpu", *asked]))
    if given.toy:
        print(text)
        return 0
    settings = {"card": card, "rate": rate, **{k: v for k, v in vars(given).items() if k not in ("toy", "name")}}
    write(given.name, settings=settings, results=rows, text=text)
    met = [
        row.get("share", 0) >= GOAL["share"] and (row["steps"] != 50 or row["GB"] <= GOAL["GB"])
        for row in rows
        if row["mode"] == "balanced" and "SDXL" in row["model"]
    ]
    print(f"goals ({GOAL['share']:.0%} of the matrix rate; SDXL, 50 steps, {GOAL['GB']:.0f} GB) met: {all(met)}")
    return 0 if all(met) else 1


def page(card: str, rate: float, rows: list[dict[str, Any]], command: str) -> str:
    """The table people read."""
    lines = [
        "# Full-size models on a GPU",
        "",
        f"Measured; card: {card}, whose large bfloat16 products run at {rate / 1e12:.0f} TFLOP/s. One image, "
        f"guidance on. `{command}` regenerates this page.",
        "",
        "| model | sampler steps | mode | seconds per step | peak GB | share of the matrix rate |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            f"{row['seconds']:.3g} | {row['GB']:.1f} | {row['share']:.1%}" if "share" in row else "out of memory | |"
        )
        lines.append(f"| {row['model']} | {row['steps']} | {row['mode']} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
