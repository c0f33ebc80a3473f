"""What keeping noise plausible costs: value and gradient of each regularizer, next to a plain loop.

The noise is that of 50 DDIM steps of Stable Diffusion 1.5 at eta 1: 51 draws of (4, 64, 64). The loop does what a
direct reading of the paper's formulas does, one permutation after the other: index, reshape, Gram matrix, singular
values; its permutations are those of the family it is compared with, so that both compute the same number. Fresh noise
is where a run begins; noise 2 % too large is where all bounds are below 1 and every order has a gradient.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import format_ratio, in_turns, ratio, write
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.permutations import Family, get_permutations
from noiseward.noise.project import NormProjection, SpectralProjection
from noiseward.noise.regularize import Concentration, Regularizer, Shell, probability
from noiseward.noise.typicality import strict_probability

BLOCK = 4
NOISES = {"fresh noise": 1.0, "noise 2 % too large": 1.02}


def loop(noise: Tensor, permutations: Tensor) -> tuple[Tensor, Tensor]:
    """The penalty and its gradient, one permutation after the other."""
    variable = noise.flatten().clone().requires_grad_(True)
    count = len(variable) // BLOCK
    total = variable.new_zeros(())
    for permutation in permutations:
        blocks = variable[permutation].view(count, BLOCK)
        size1 = blocks.mean(0).norm()
        size2 = torch.linalg.svdvals(blocks.T @ blocks / count - torch.eye(BLOCK)).max()
        excess = ((1 + size2).sqrt() - 1 - math.sqrt(BLOCK / count)).clamp(min=0)
        log1 = (math.log(2) - count / (2 * BLOCK) * size1**2).clamp(max=0)
        log2 = (math.log(2) - count / 2 * excess**2).clamp(max=0)
        total = total - (log1 + log2) / len(permutations)
    (gradient,) = torch.autograd.grad(total, variable)
    return total.detach(), gradient


def ours(regularizer: Regularizer, noise: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The penalty and its gradient."""
    variable = noise.clone().requires_grad_(True)
    penalty = regularizer(variable, layout)
    (gradient,) = torch.autograd.grad(penalty.sum(), variable)
    return penalty.detach(), gradient


def project_both(noise: Tensor, layout: Layout) -> None:
    """What a step with a spectral projection pays."""
    projection = SpectralProjection()
    projection.noise(noise, layout)
    projection.direction(noise, layout)


def differ(regularizer: Regularizer, index: Tensor, noise: Tensor, layout: Layout) -> dict[str, float]:
    """How far ours is from the loop in double precision, relative."""
    penalty, gradient = loop(noise.double(), index)
    value, slope = ours(regularizer, noise, layout)
    far = (slope.flatten() - gradient).norm() / gradient.norm()
    return {"value": abs(value.item() / penalty.item() - 1), "gradient": far.item()}


def _index(family: Family, size: int, permutations: int) -> Tensor:
    return get_permutations(size, permutations, BLOCK, family, torch.device("cpu")).index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="6 draws, 10 permutations, 2 turns")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    draws, permutations, turns = (6, 10, 2) if small else (51, 100, 7)
    names = ("start", *(f"step {k}" for k in range(1, draws)))
    layout = Layout(tuple(Draw(name, (4, 64, 64), "step" if k else "start") for k, name in enumerate(names)))
    families = {
        family: (Concentration(family=family, permutations=permutations), _index(family, layout.size, permutations))
        for family in ("random", "strided")
    }
    results: dict[str, dict[str, dict[str, float]]] = {}
    differences: dict[str, dict[str, dict[str, float]]] = {}
    for title, scale in NOISES.items():
        noise = scale * layout.draw_noise([0])
        differences[title] = {family: differ(*both, noise, layout) for family, both in families.items()}
        functions: dict[str, Callable[[], object]] = {}
        for family, (regularizer, index) in families.items():
            functions[f"plain loop, {family}"] = partial(loop, noise, index)
            functions[f"Concentration, {family}"] = partial(ours, regularizer, noise, layout)
        functions["Shell"] = partial(ours, Shell(), noise, layout)
        functions["SpectralProjection of noise and direction"] = partial(project_both, noise, layout)
        functions["NormProjection of noise"] = partial(NormProjection().noise, noise, layout)
        functions["probability"] = partial(probability, noise, layout)
        functions["strict_probability"] = partial(strict_probability, noise, layout)
        seconds = in_turns(functions, turns)
        results[title] = {
            name: ratio(seconds["plain loop, random" if "random" in name else "plain loop, strided"], fast)
            for name, fast in seconds.items()
            if "loop" not in name
        }
    settings = {"draws": draws, "shape": [4, 64, 64], "permutations": permutations, "turns": turns, "threads": 1}
    text = page(settings, results, differences)
    write("regularizers", settings=settings, results={"ratios": results, "differences": differences}, text=text)


def page(
    settings: dict[str, object],
    results: dict[str, dict[str, dict[str, float]]],
    differences: dict[str, dict[str, dict[str, float]]],
) -> str:
    """The table people read."""
    lines = [
        f"# Regularizers, {settings['draws']} draws of (4, 64, 64), {settings['permutations']} permutations",
        "",
        "How many times faster than the plain loop, value and gradient; median (least to most) of "
        f"{settings['turns']} turns, one thread. `python -m benchmarks.regularizers` regenerates this page.",
        "",
        "| | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    names = list(next(iter(results.values())))
    lines += [
        f"| {name} | " + " | ".join(format_ratio(rows[name]) for rows in results.values()) + " |" for name in names
    ]
    lines += ["", "Relative difference from the loop over the same permutations in double precision:", ""]
    lines += [
        f"* {title}, {family}: value {far['value']:.1e}, gradient {far['gradient']:.1e}"
        for title, by_family in differences.items()
        for family, far in by_family.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
