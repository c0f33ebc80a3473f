"""What must be true of a pipeline of any family, measured: tests assert it, the support table reports it.

A `Bench` returns the numbers that have to be small, or large. `measure` asks for all of them and never raises: a
failure is a result with its reason.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from noiseward import DiffusersSampler, FunctionReward, align
from noiseward.pipelines.load import load_pipeline
from tests.families import Family


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the support table: numbers where measured, and why not where not.

    Attributes:
        draws, dead, other: as the layout lists them.
        parity: largest difference to the stock pipeline's sample; 0 is bit for bit.
        seeded: whether `generator=` gives every draw.
        slope: largest relative error between gradient and finite difference, over the draws that move.
        rows: largest difference of a row alone and in a batch, in float64.
        leak: largest gradient of one row's sample to another row's noise.
        gain: how far `align` raised the reward.
        reason: of a failure; empty when all is well.
    """

    pipeline: str = ""
    draws: int = 0
    dead: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    parity: float = float("nan")
    seeded: bool = False
    slope: float = float("nan")
    rows: float = float("nan")
    leak: float = float("nan")
    gain: float = float("nan")
    reason: str = ""


class Bench:
    """A family's pipeline, saved and loaded again in two precisions, and each driven by the adapter.

    Arguments:
        family: the family.
        folder: where its pipeline is saved; `load` reads it from there, offline.
    """

    def __init__(self, family: Family, folder: Path) -> None:
        made = family.build()
        for part in made.components.values():
            if isinstance(part, Module):
                part.eval()
        made.save_pretrained(folder)
        self.family = family
        self.pipe, self.wide = load_pipeline(folder), load_pipeline(folder, dtype=torch.float64)
        for pipe in (self.pipe, self.wide):
            pipe.set_progress_bar_config(disable=True)
        self.tape = DiffusersSampler(self.pipe, **family.call)
        self.wide_tape = DiffusersSampler(self.wide, **family.call)

    @property
    def prompt(self) -> str | None:
        """The first of the family's prompts."""
        return self.family.prompts[0] if self.family.prompts else None

    def stock(self, **call: Any) -> Tensor:
        """The pipeline's own sample of the first prompt, without any of this library."""
        named: dict[str, Any] = {}
        if self.prompt is not None:
            named = {"class_labels": [int(self.prompt)]} if self.prompt.isdecimal() else {"prompt": self.prompt}
        return self.pipe(**named, **self.family.call, **call, output_type="pt", return_dict=False)[0]

    def parity(self, seed: int = 7) -> tuple[float, float]:
        """Largest difference between our sample of a seed and the stock one: by torch's generator, by a given one."""
        with torch.no_grad():
            ours = self.tape(self.tape.init(1, seed=seed), self.prompt)
        torch.manual_seed(seed)
        theirs = self.stock(), self.stock(generator=torch.Generator().manual_seed(seed))
        assert ours.shape == theirs[0].shape == theirs[1].shape
        return (ours - theirs[0]).abs().max().item(), (ours - theirs[1]).abs().max().item()

    def slopes(self) -> dict[str, float]:
        """For each draw that moves, the relative error between its gradient and a finite difference along it."""
        return slopes(self.wide_tape, self.prompt, self.family.width)

    def modes(self) -> dict[str, float]:
        """For each memory mode, how far its gradient is from the one finite differences were compared with."""
        found = {}
        for memory in ("balanced", "fast", "low"):
            tape = DiffusersSampler(self.wide, memory=memory, **self.family.call)
            noise = tape.init(1, seed=4).double().requires_grad_()
            (found[memory],) = torch.autograd.grad(weigh(tape(noise, self.prompt)).sum(), noise)
        first = found["balanced"]
        return {memory: ((gradient - first).norm() / first.norm()).item() for memory, gradient in found.items()}

    def rows(self) -> tuple[float, float]:
        """Largest difference of rows alone and in a batch, and largest gradient from one row to another's noise."""
        prompts = self.family.prompts and list(self.family.prompts)
        noise = self.wide_tape.init(2, seed=1).double().requires_grad_()
        together = self.wide_tape(noise, prompts)
        (gradient,) = torch.autograd.grad(weigh(together)[1], noise)
        with torch.no_grad():
            alone = torch.cat([self.wide_tape(noise[k : k + 1], prompts and prompts[k]) for k in (0, 1)])
        return (together - alone).abs().max().item(), gradient[0].abs().max().item()

    def prompt_effect(self) -> float:
        """How far two prompts move one sample."""
        noise = self.tape.init(1, seed=1)
        with torch.no_grad():
            first, second = (self.tape(noise, prompt) for prompt in self.family.prompts or ())
        return (first - second).abs().max().item()

    def gain(self) -> float:
        """How far a few steps of `align` raise the mean of a sample."""
        reward = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")
        return align(
            self.tape, self.prompt, reward, steps=2, method="dno:lr=0.05,guard=none", progress=False
        ).gain.item()


def slopes(tape: DiffusersSampler, prompt: str | None, width: float) -> dict[str, float]:
    """For each draw that moves, the error between its gradient and a central difference along a random direction.

    A wrong gradient may be right along itself. The error is relative to how large a slope is along such a direction,
    and the least of three widths of the difference: rounding spoils narrow ones, curvature wide ones.
    """
    layout = tape.layout
    noise = tape.init(1, seed=4).double().requires_grad_()
    (gradient,) = torch.autograd.grad(weigh(tape(noise, prompt)).sum(), noise)
    errors = {}
    for k, (draw, part) in enumerate(zip(layout, layout.split(gradient), strict=True)):
        if not draw.movable:
            continue
        drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(k), dtype=noise.dtype)
        along = layout.keep([j == k for j in range(len(layout))], drawn)
        along = along / along.norm()
        slope, size = (gradient * along).sum().item(), part.norm().item() / part.numel() ** 0.5
        found = []
        for wide in (width, 3 * width, 10 * width):
            with torch.no_grad():
                up, down = (weigh(tape(noise + sign * wide * along, prompt)).item() for sign in (1, -1))
            measured = (up - down) / (2 * wide)
            found.append(abs(slope - measured) / max(size, abs(measured), 1e-300))
        errors[draw.name] = min(found)
    return errors


def weigh(sample: Tensor) -> Tensor:
    """A smooth number per row, of samples of any shape: a random linear functional."""
    weights = torch.randn(sample.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (sample.double() * weights).flatten(1).sum(1)


def measure(family: Family, folder: Path) -> Measurement:
    """All of it, for one family; never raises, and says what fails in `reason`."""
    found: dict[str, Any] = {}
    try:
        bench = Bench(family, folder)
        layout = bench.tape.layout
        others = tuple(draw.name for draw in layout if draw.role == "other")
        found = {"pipeline": type(bench.pipe).__name__, "draws": len(layout), "dead": layout.dead, "other": others}
        found["parity"], given = bench.parity()
        found["seeded"] = given == 0
        found["slope"] = max(bench.slopes().values())
        found["rows"], found["leak"] = bench.rows()
        found["gain"] = bench.gain()
    except Exception as error:  # the table shows failures; the tests do not pass through here
        return Measurement(**found, reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
    measured = Measurement(**found)
    return dataclasses.replace(measured, reason=_fault(measured, family))


def _fault(measured: Measurement, family: Family) -> str:
    if measured.parity != 0:
        return f"differs from the stock sample by {measured.parity:.1g}"
    if not measured.slope <= family.tolerance:
        return f"gradient and finite difference are {measured.slope:.1g} apart"
    if measured.leak != 0 or not measured.rows <= 1e-9:
        return f"rows are not independent: {max(measured.leak, measured.rows):.1g}"
    return "" if measured.gain > 0 else "align did not raise the reward"
