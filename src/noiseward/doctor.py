"""Is a sampler fit for noise optimization? The same questions for every model, each answered by measuring."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from noiseward.errors import GradientError
from noiseward.noise.layout import Layout, Seeds
from noiseward.optimizers.gradient import Backprop
from noiseward.problem import Problem
from noiseward.samplers.cost import count_calls
from noiseward.samplers.memory import measure_kept

__all__ = ["Finding", "examine", "verdict"]

WIDTH = 0.1  # of the finite difference, in standard deviations of the noise along the gradient
RANDOM, RANDOM_WIDTH = 4, 0.1  # how many random directions, and how wide the finite differences are there


@dataclasses.dataclass(frozen=True)
class Finding:
    """One answer.

    Arguments:
        fine: whether it is as it should be.
        says: the answer in a sentence.
        must: whether noise optimization is wrong without it.
    """

    fine: bool
    says: str
    must: bool = True


def examine(problem: Problem) -> Iterator[Finding]:
    """Ask whether draws are seen, samples repeat, rows are independent and gradients right, and what it costs."""
    objective, noise = problem.objective, problem.noise[:1]
    sampler, layout = objective.sampler, objective.sampler.layout  # finding it out has compared a replay already
    rough = any(draw.dtype not in (torch.float32, torch.float64) for draw in layout)
    exact = noise.device.type == "cpu"
    yield Finding(True, _listed(layout))
    other = sampler.init(1, seed=problem.seeds.rows[0] + 1).to(noise)  # a mean over two equal rows shows nothing
    with torch.no_grad():
        once, twice = objective(noise), objective(noise)
        pair = objective.repeat(2)(torch.cat([noise, other]))
    scale = once.sample.abs().max().item()
    gap = (once.sample - twice.sample).abs().max().item()
    same = gap == 0 if exact else gap <= 0.03 * scale
    yield Finding(same, f"the same noise gives the same sample, to {gap:.1g}{'' if same else ': NO'}")
    seed, prompt = problem.seeds.rows[0], objective.prompt
    prompt = prompt if prompt is None or isinstance(prompt, str) else prompt[0]
    stock = sampler.run_stock(prompt, seed=seed)
    if stock is not None:
        gap = (once.sample - stock).abs().max().item()
        same = gap == 0 if exact else gap <= 0.03 * scale
        yield Finding(
            same,
            f"seed {seed} gives the pipeline's own image of generator=torch.Generator().manual_seed({seed}), "
            f"to {gap:.1g}{'' if same else ': another one; the pipeline keeps the generator from some of its draws'}",
            must=False,
        )
        shown = sampler.show_stock(prompt, seed=seed)
        if shown is not None and shown.shape == stock.shape:
            gap = (stock.cpu().double().clamp(0, 1) * 255 - shown).abs().max().item()
            allowed = 8 if rough else 2
            yield Finding(gap <= allowed, f"samples are the images that the pipeline shows, to {gap:.2g} of 255 levels")
    gap = (pair.sample[:1] - once.sample).abs().max().item()
    allowed = (0.1 if rough else 0.01) * max(scale, 1.0)
    yield Finding(gap < allowed, f"a row is the same alone and in a batch, to {gap:.1g}")
    if sampler.alone is not None:
        yield Finding(False, f"{sampler.alone}: rows are sampled one at a time", must=False)
    begun = time.monotonic()
    try:
        with count_calls() as meter:
            _, direction = Backprop()(objective, noise, Seeds((0,)))
    except GradientError as error:
        yield Finding(False, str(error))
        return
    seconds, calls = time.monotonic() - begun, max(meter.nfe.forward, 1)
    slope, measured = _slopes(problem, noise, direction)
    error = abs(slope - measured) / max(abs(slope), abs(measured), 1e-30)
    biased = f": gradients go through {sampler.stand_in}, and are biased" if sampler.stand_in else ""
    yield Finding(
        error < (0.3 if rough else 0.05),
        f"gradient {slope:.4g} against finite difference {measured:.4g}, {error:.1%} apart{biased}",
        must=not biased,
    )
    if not rough and not biased:  # half precision cannot tell how little the score changes along them
        error, doubt = _random_error(problem, noise, direction)
        says = f"gradient against finite differences along {RANDOM} random directions: {error:.1%} apart"
        unclear = error >= 0.05 and error < 3 * doubt
        yield Finding(error < 0.05 or unclear, says + (f", these to {doubt:.1%}" if unclear else ""))
    held = _kept(problem, noise)
    yield Finding(
        True,
        f"a step takes {seconds:.2f} s, {calls} denoiser calls, and keeps {held:.3g} MB for the gradient, "
        f"{held / calls:.2g} MB per call",
    )


def verdict(findings: list[Finding]) -> str:
    """All of it in a line."""
    wrong = [finding for finding in findings if not finding.fine]
    if any(finding.must for finding in wrong):
        return "not fit for noise optimization: results would be wrong, see above"
    return "fit for noise optimization" + (", with the exception above" if wrong else "")


def _listed(layout: Layout) -> str:
    """The draws, by what they are for."""
    roles = collections.Counter(draw.role for draw in layout)
    parts = ", ".join(f"{count} {role}" for role, count in roles.items())
    shapes = " and ".join(dict.fromkeys(str(draw.shape) for draw in layout))
    dead = f"; without effect: {', '.join(layout.dead)}" if layout.dead else ""
    return f"{len(layout)} draws are seen and replayed ({parts}), of shape {shapes}{dead}"


def _kept(problem: Problem, noise: Tensor) -> float:
    """Megabytes the graph of one evaluation holds until its gradient is taken, without the weights."""
    modules = problem.objective.sampler.modules.values()
    return measure_kept(lambda: problem.objective(noise.clone().requires_grad_()), modules) / 1e6


def _slopes(
    problem: Problem, noise: Tensor, gradient: Tensor, along: Tensor | None = None, width: float = WIDTH
) -> tuple[float, float]:
    """The slope along a direction, from the gradient and from two evaluations; default: along the gradient."""
    along = gradient if along is None else along
    along = along / along.norm()
    with torch.no_grad():
        up, down = (problem.objective(noise + sign * width * along).value.item() for sign in (1, -1))
    return (gradient * along).sum().item(), (up - down) / (2 * width)


def _random_error(problem: Problem, noise: Tensor, gradient: Tensor) -> tuple[float, float]:
    """The relative error of a gradient along random directions: a wrong one may be right along itself.

    Also how far finite differences of two widths are apart: by less than that, the sampler is too rough to tell.
    """
    generator, layout = torch.Generator().manual_seed(0), problem.objective.sampler.layout
    drawn = [layout.zero_fixed(torch.randn(noise.shape, generator=generator).to(noise)) for _ in range(RANDOM)]
    widths = (RANDOM_WIDTH, RANDOM_WIDTH / 2)
    wide, near = ([_slopes(problem, noise, gradient, along, width) for along in drawn] for width in widths)
    scale = max(math.hypot(*(measured for _, measured in near)), 1e-30)
    wrong = math.hypot(*(slope - measured for slope, measured in near))
    doubt = math.hypot(*(one - other for (_, one), (_, other) in zip(wide, near, strict=True)))
    return wrong / scale, doubt / scale
