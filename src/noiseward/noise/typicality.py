r"""A strict test of noise: every draw on its own and all of them together, by tests with exact or conservative tails.

The paper's P(z) pools all draws and tests short blocks. It cannot see one draw scaled down among many, noise whose
every element is +-1, or a slow wave over one draw of many. Here each draw z of N elements (shape (C, H, W), say) is
tested:

* `norm`: :math:`\|z\|^2 \sim \chi^2_N`, two-sided;
* `mean`: :math:`\sqrt N \bar z \sim N(0, 1)`, two-sided;
* `values`: the distribution of its elements, by :math:`\Pr[\sup_x |F_N(x) - \Phi(x)| > d] \le 2 e^{-2 N d^2}`
  (Dvoretzky-Kiefer-Wolfowitz, with Massart's constant);
* `band f`: the power in a band of spatial frequencies. In the unitary Fourier transform over the last two axes the sum
  of :math:`|X_f|^2` over any set of frequencies closed under negation is :math:`\chi^2` with one degree of freedom per
  frequency and channel;
* `peak`: the power of the strongest single frequency, by the same law and a union bound;
* `channels`: for channels i < j, :math:`\langle z_i, z_j \rangle / \|z_i\| \sim N(0, 1)`, with a union bound;

and all draws together

* `norm`, `mean`, `values`, as above;
* `blocks`: the paper's bounds for blocks of 4 and of 16 consecutive elements;
* `copies`: the same for draws i < j of one size.

Each test gives a p-value: a number that, for Gaussian noise, is at most a with probability at most a. With T tests, T
times the smallest p-value is a p-value, too (Bonferroni): that is the strict probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from noiseward.noise.concentration import log_bounds
from noiseward.noise.layout import Draw, Layout

__all__ = ["strict_probability"]


def strict_probability(noise: Tensor, layout: Layout | None = None) -> tuple[Tensor, list[str]]:
    """How plausible noise is, by its least plausible aspect.

    Arguments:
        noise: `(B, *noise_shape)`.
        layout: its layout; without it the rows are one draw each. Draws that may not change are left out.

    Returns:
        the probability `(B,)`, below a for a share of at most a of fresh noise; and per row the least plausible aspect,
        such as `band 1 of step 3`.

    Example:
        >>> layout = Layout((Draw("start", (4, 16, 16), "start"), Draw("step 1", (4, 16, 16))))
        >>> noise = layout.draw_noise([0])
        >>> noise[:, 0] *= 0.75
        >>> probability, aspect = strict_probability(noise, layout)
        >>> bool(probability < 1e-6), aspect
        (True, ['norm of start'])
    """
    layout = layout or Layout((Draw("noise", tuple(noise.shape[1:]), "start"),))
    with torch.no_grad():
        parts = zip(layout.split(noise.double()), layout, strict=True)
        draws = [(part, draw) for part, draw in parts if draw.movable]
        results = [(f"{test} of {draw.name}", p) for part, draw in draws for test, p in _alone(part)]
        if len(draws) > 1:
            results += [(f"{test} of all draws", p) for test, p in _together([part for part, _ in draws])]
        table = torch.stack([p for _, p in results])
        least, which = table.min(0)
        return (least * len(results)).clamp(max=1), [results[k][0] for k in which.tolist()]


def _alone(draw: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tests of one draw `(B, *shape)`: name and p-value `(B,)` of each."""
    flat = draw.flatten(1)
    yield from _elements(flat)
    image = draw if draw.ndim >= 4 else flat[:, None, None]
    image = image.reshape(draw.shape[0], -1, *image.shape[-2:])
    power = torch.fft.fft2(image, norm="ortho").abs().square().sum(1)  # over channels: (B, H, W)
    channels = image.shape[1]
    rings = _rings(*power.shape[1:]).to(power.device)
    edges = sorted({0, 1, *(2**k for k in range(1, 32) if 2**k <= int(rings.max())), int(rings.max()) + 1})
    for low, high in pairwise(edges):
        inside = (rings >= low) & (rings < high)
        name = f"band {low}" if high == low + 1 else f"band {low}-{high - 1}"
        yield name, chi_square(power[:, inside].sum(1), channels * int(inside.sum()))
    if power[0].numel() > 4:
        yield "peak", _peak(power, channels)
    if channels > 1:
        yield "channels", _copies(image.flatten(2))


def _together(draws: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tests of all draws of a row at once."""
    flat = torch.cat([draw.flatten(1) for draw in draws], 1)
    yield from _elements(flat)
    for block in (4, 16):
        if flat.shape[1] % block == 0:
            yield f"blocks of {block}", _blocks(flat, block)
    sizes = {draw[0].numel() for draw in draws}
    for size in sizes:
        stack = torch.stack([draw.flatten(1) for draw in draws if draw[0].numel() == size], 1)
        if stack.shape[1] > 1:
            yield "copies", _copies(stack)


def _elements(flat: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tests that do not depend on where an element stands."""
    size = flat.shape[1]
    yield "norm", chi_square(flat.square().sum(1), size)
    yield "mean", normal(flat.mean(1).abs() * math.sqrt(size))
    level = torch.special.ndtr(flat.sort(dim=1).values)
    ranks = torch.arange(size, dtype=flat.dtype, device=flat.device)
    distance = torch.maximum((level - ranks / size).amax(1), ((ranks + 1) / size - level).amax(1))
    yield "values", (2 * torch.exp(-2 * size * distance.square())).clamp(max=1)


def _blocks(flat: Tensor, block: int) -> Tensor:
    """The smaller of the paper's two bounds for the identity, corrected for being two."""
    log1, log2 = log_bounds(flat, block=block, permutations=0)
    return (2 * torch.minimum(log1, log2)[:, 0].exp()).clamp(max=1)


def _copies(stack: Tensor) -> Tensor:
    """Whether any two of the vectors `(B, count, N)` are nearly equal."""
    product = stack @ stack.transpose(1, 2) / stack.norm(dim=2, keepdim=True).clamp(min=1e-300)
    first, second = torch.triu_indices(stack.shape[1], stack.shape[1], 1, device=stack.device)
    return (normal(product[:, first, second].abs().amax(1)) * len(first)).clamp(max=1)


def _peak(power: Tensor, channels: int) -> Tensor:
    """The strongest frequency: a real one is chi-square with C degrees of freedom, a pair, halved, with 2C."""
    height, width = power.shape[1:]
    rows, columns = (torch.arange(side, device=power.device) for side in (height, width))
    real = ((2 * rows) % height == 0)[:, None] & ((2 * columns) % width == 0)
    tails = [_upper(power[:, real].amax(1), channels)]
    if not real.all():
        tails.append(_upper(2 * power[:, ~real].amax(1), 2 * channels))
    independent = int(real.sum()) + int((~real).sum()) // 2
    return (torch.stack(tails).amin(0) * independent).clamp(max=1)


def _rings(height: int, width: int) -> Tensor:
    """The larger of the two absolute frequencies at each place of the transform."""
    rows, columns = (torch.fft.fftfreq(side, 1 / side).abs().round().long() for side in (height, width))
    return torch.maximum(rows[:, None], columns[None, :])


def _upper(value: Tensor, freedom: int) -> Tensor:
    """Pr[chi-square > value]."""
    return torch.special.gammaincc(torch.full_like(value, freedom / 2), value / 2)


def chi_square(value: Tensor, freedom: int) -> Tensor:
    """Two-sided p-value of a chi-square variable."""
    above = _upper(value, freedom)
    below = torch.special.gammainc(torch.full_like(value, freedom / 2), value / 2)
    return (2 * torch.minimum(above, below)).clamp(max=1)


def normal(size: Tensor) -> Tensor:
    """Two-sided p-value of the absolute value of a standard normal variable."""
    return torch.special.erfc(size / math.sqrt(2))
