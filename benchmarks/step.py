"""What a step costs compared with its parts and with the published procedure, on a small Stable Diffusion.

Timed alone, on the inputs the pipeline gives them: F, the denoiser forward; G, forward and backward; D, the decoder
forward and backward. The floor of a `Backprop` step is then N G + D, or N (F + G) + D where activations are recomputed.
A whole step adds what surrounds it: the penalty of 100 orders, P(z), clipping, Adam. The published procedure
(`published.py`) is timed in the same turns, with the same reward and penalty.

What the tape costs is computed: torch calls it sees in a step, times what one costs, over the time of the step. So is
what it costs to check that recomputed calls are the calls that were made: calls, times what keeping and restoring the
denoiser's state and comparing its output cost.

    python -m benchmarks.step [--small]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from benchmarks.models import PIXELS, small_sd
from benchmarks.published import Published
from benchmarks.timing import format_ratio, in_turns, ratio, write
from noiseward import Backprop, Concentration, DiffusersSampler, FunctionReward, GradientAscent, Objective, Seeds, Step
from noiseward.loop.budget import Budget
from noiseward.loop.loop import iterate
from noiseward.noise.tape import NoiseTape, record
from noiseward.samplers.cost import Meter
from noiseward.samplers.memory import MODES
from noiseward.samplers.recompute import _Call, _differences, _thinned
from noiseward.samplers.state import snapshot

CALL = {"guidance_scale": 5.0, "eta": 1.0, "height": PIXELS, "width": PIXELS}
BRIGHTNESS = FunctionReward(lambda images: images.mean((1, 2, 3)), name="brightness")
FLOORS = {"fast": "N G + D", "balanced": "N (F + G) + D", "low": "N (2 F + G) + D + decoder forward"}


def pieces(pipe: Any) -> dict[str, Callable[[], object]]:
    """The denoiser's and the decoder's passes, each alone."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, 4, PIXELS // 4, PIXELS // 4, generator=generator)
    words = torch.randn(2, 8, pipe.unet.config.cross_attention_dim, generator=generator)
    weights = torch.randn(latent.shape, generator=generator)
    small = latent[:1]

    def forward() -> None:
        with torch.no_grad():
            pipe.unet(latent, 500, encoder_hidden_states=words)

    def both() -> None:
        leaf = latent.clone().requires_grad_()
        torch.autograd.grad(pipe.unet(leaf, 500, encoder_hidden_states=words).sample, leaf, weights)

    def decoder() -> None:
        leaf = small.clone().requires_grad_()
        torch.autograd.grad(pipe.vae.decode(leaf).sample.mean(), leaf)

    def decode() -> None:
        with torch.no_grad():
            pipe.vae.decode(small)

    return {"F": forward, "G": both, "D": decoder, "decoder forward": decode}


def floor(mode: str, steps: int, seconds: dict[str, list[float]]) -> list[float]:
    """What a step in a mode is made of, turn by turn."""
    again = MODES.index(mode)
    turns = zip(seconds["F"], seconds["G"], seconds["D"], seconds["decoder forward"], strict=True)
    return [steps * (again * f + g) + d + (mode == "low") * half for f, g, d, half in turns]


def directions(sampler: DiffusersSampler, noise: Tensor) -> None:
    """A `Backprop` direction, without penalty or update."""
    Backprop()(Objective(sampler, BRIGHTNESS, "a"), noise, Seeds((0,)))


def iterate_steps(sampler: DiffusersSampler, noise: Tensor) -> Iterator[Step]:
    """Whole steps, as a run makes them."""
    objective = Objective(sampler, BRIGHTNESS, "a", Concentration(1.0, permutations=100))
    return iterate(objective, noise, optimizer=GradientAscent(), budget=Budget(steps=10**9))


def tape_share(sampler: DiffusersSampler, noise: Tensor, seconds: float) -> dict[str, float]:
    """Torch calls the tape sees in a step, microseconds each, and their share of the step."""
    tapes: list[NoiseTape] = []
    init = NoiseTape.__init__

    def note(tape: NoiseTape, source: Any) -> None:
        init(tape, source)
        tapes.append(tape)

    NoiseTape.__init__ = note
    try:
        directions(sampler, noise)
    finally:
        NoiseTape.__init__ = init
    seen, one, many = sum(tape.seen for tape in tapes), torch.ones(1), 20_000

    def calls() -> float:
        begun = time.process_time()
        for _ in range(many):
            one.neg()
        return time.process_time() - begun

    costs = []
    for _ in range(5):
        plain = calls()
        with record(0, into=[]):
            costs.append((calls() - plain) / many)
    cost = max(sorted(costs)[len(costs) // 2], 0.0)
    return {"seen": seen, "microseconds": 1e6 * cost, "share": seen * cost / seconds}


def check_share(unet: Module, steps: int, seconds: float) -> dict[str, float]:
    """Milliseconds that checking one recomputed call takes, and their share of a step."""
    output, many = torch.randn(2, 4, PIXELS // 4, PIXELS // 4), 100
    costs = []
    snapshot(unet)  # the first one finds the parts
    for _ in range(5):
        begun = time.process_time()
        for _ in range(many):
            call = _Call(lambda *inputs: inputs, Meter(), unet, snapshot(unet))
            call.judge(_differences(call.repeat([output]), [_thinned(output)]))
        costs.append((time.process_time() - begun) / many)
    cost = sorted(costs)[len(costs) // 2]
    return {"milliseconds": 1e3 * cost, "share": steps * cost / seconds}


def measure(steps: int, turns: int) -> dict[str, Any]:
    """Everything for one number of sampler steps."""
    pipe = small_sd()
    samplers = {mode: DiffusersSampler(pipe, memory=mode, num_inference_steps=steps, **CALL) for mode in MODES}
    noise = samplers["fast"].init(1)
    runs = {mode: iterate_steps(sampler, noise) for mode, sampler in samplers.items()}
    published = Published(pipe, lambda images: images.mean((1, 2, 3)), steps=steps, size=(PIXELS // 4, PIXELS // 4))
    leaf = noise[0].clone().requires_grad_()
    plain = published(noise[0])
    gap = (plain - samplers["fast"](noise, "a")).abs().max().item()
    functions = {
        **pieces(pipe),
        **{f"Backprop, {mode}": partial(directions, sampler, noise) for mode, sampler in samplers.items()},
        **{f"step, {mode}": partial(next, run) for mode, run in runs.items()},
        "published": partial(published.step, leaf),
    }
    seconds = in_turns(functions, turns, clock=time.process_time)
    fast, balanced = (sorted(seconds[f"Backprop, {mode}"])[turns // 2] for mode in ("fast", "balanced"))
    return {
        "same image": gap,
        "over floor": {m: ratio(seconds[f"Backprop, {m}"], floor(m, steps, seconds)) for m in MODES},
        "step over floor": {m: ratio(seconds[f"step, {m}"], floor(m, steps, seconds)) for m in MODES},
        "times faster": {m: ratio(seconds["published"], seconds[f"step, {m}"]) for m in MODES},
        "low over balanced": ratio(seconds["Backprop, low"], seconds["Backprop, balanced"]),
        "tape": tape_share(samplers["fast"], noise, fast),
        "check": check_share(pipe.unet, steps, balanced),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="4 sampler steps, 2 turns")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    turns, lengths = (2, (4,)) if small else (5, (20, 50))
    results = {str(steps): measure(steps, turns) for steps in lengths}
    settings = {"sampler steps": lengths, "turns": turns, "threads": 1, "small": small, **CALL}
    write("step", settings=settings, results=results, text=page(turns, results), small=small)


def page(turns: int, results: dict[str, Any]) -> str:
    """The tables people read."""
    lines = [
        "# A step, its floor and the published procedure",
        "",
        f"A Stable Diffusion of 7.1 M weights in the denoiser, {PIXELS} x {PIXELS} images, guidance on, eta 1, one "
        f"thread, computing time. Median (least to most) of {turns} turns. `python -m benchmarks.step` regenerates "
        "this page.",
        "",
        "| sampler steps | mode | floor | Backprop / floor | whole step / floor | times faster than published |",
        "|---|---|---|---|---|---|",
    ]
    for steps, found in results.items():
        for mode in MODES:
            cells = (found[name][mode] for name in ("over floor", "step over floor", "times faster"))
            lines.append(f"| {steps} | {mode} | {FLOORS[mode]} | " + " | ".join(map(format_ratio, cells)) + " |")
    lines.append("")
    for steps, found in results.items():
        tape, check = found["tape"], found["check"]
        lines.append(
            f"* {steps} steps: the tape sees {tape['seen']} torch calls at {tape['microseconds']:.1f} us, "
            f"{tape['share']:.1%} of a `fast` step (computed); checking a recomputed call takes "
            f"{check['milliseconds']:.2f} ms, {check['share']:.1%} of a `balanced` step (computed); `low` takes "
            f"{format_ratio(found['low over balanced'])} times `balanced`; largest difference of our image from the "
            f"published loop's {found['same image']:.1g}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
