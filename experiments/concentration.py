r"""The two concentration inequalities behind P(z): how tight they are, and which unlikely noise they notice.

*Tails.* M1 of Gaussian noise is chi-distributed, so that its tail is known; M2 is sampled from the exact law of a
Gaussian second moment, :math:`S = A A^\top / m` with Bartlett's lower triangular A (squared diagonal
:math:`\chi^2_{m - i}`, i = 0, 1, ..., the rest standard normal below). Both are compared with the bounds p1 and p2.

*Power.* Noise with a flaw, of many kinds, is put to the test in the order given, to the test in 100 random orders, to
both (the paper's P(z)), and to the strict test of this project. Each rejects below its own 1 % quantile of fresh noise,
so that all raise as many false alarms, and what counts is how often each sees the flaw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.cells import Cell
from experiments.claim import Claim, Outcome
from experiments.frame import Request, main
from noiseward import Draw, Layout, strict_probability
from noiseward.noise.concentration import log_bounds

CLAIM = Claim(
    title="The concentration inequalities behind P(z) (Lemma 1)",
    paper="for Gaussian noise cut into m blocks of k, the mean block and the second moment of blocks exceed a value M "
    "with probability at most p1(M) and p2(M); the published code also asks this in 100 random orders of the elements",
    source="Lemma 1, after Wainwright 2019; formulas and orders as in the published code",
    minutes=5,
)
SIZES = ((2, 8192), (4, 4096), (4, 208_896), (64, 256))  # k, m; the third is a 50-step run of Stable Diffusion 1.5
LATENT = Draw("start", (4, 64, 64), "start")
TESTS = ("ordered", "permuted", "P(z)", "strict")


def log1(size: Tensor, k: int, m: int) -> Tensor:
    """log p1 of M1."""
    return (math.log(2) - m * size.square() / (2 * k)).clamp(max=0)


def log2(size: Tensor, k: int, m: int) -> Tensor:
    """log p2 of M2."""
    excess = ((1 + size).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
    return (math.log(2) - m / 2 * excess.square()).clamp(max=0)


def second_moments(count: int, k: int, m: int, generator: torch.Generator) -> Tensor:
    """M2 of `count` Gaussian noises, `(count,)`, from its exact law."""
    found = []
    for rows in torch.arange(count).split(max(1, 2_000_000 // k**2)):
        lower = torch.randn(len(rows), k, k, generator=generator, dtype=torch.float64).tril(-1)
        freedom = (m - torch.arange(k, dtype=torch.float64)) / 2
        diagonal = (2 * torch._standard_gamma(freedom.expand(len(rows), k).contiguous(), generator)).sqrt()
        lower = lower + torch.diag_embed(diagonal)
        deviation = lower @ lower.mT / m - torch.eye(k, dtype=torch.float64)
        found.append(torch.linalg.eigvalsh(deviation).abs().amax(1))
    return torch.cat(found)


def tails(count: int, k: int, m: int) -> dict[str, Any]:
    """Tail and bound of both over a grid of values, and how often Gaussian noise falls below p = 0.1."""
    generator = torch.Generator().manual_seed(0)
    grid1 = torch.linspace(0, 2 * math.sqrt(2 * k * math.log(20) / m), 60, dtype=torch.float64)
    tail1 = torch.special.gammaincc(torch.tensor(k / 2, dtype=torch.float64), m * grid1.square() / 2)
    at1 = math.sqrt(2 * k * math.log(20) / m)  # where p1 is 0.1
    sample = second_moments(count, k, m, generator).sort().values
    at2 = (1 + math.sqrt(k / m) + math.sqrt(2 * math.log(20) / m)) ** 2 - 1
    grid2 = torch.linspace(0, 1.3 * at2, 60, dtype=torch.float64)
    tail2 = 1 - torch.searchsorted(sample, grid2).double() / count
    below = torch.special.gammaincc(torch.tensor(k / 2), torch.tensor(m * at1**2 / 2)).item()
    return {
        "m1": {"at": grid1.tolist(), "tail": tail1.tolist(), "bound": log1(grid1, k, m).exp().tolist()},
        "m2": {"at": grid2.tolist(), "tail": tail2.tolist(), "bound": log2(grid2, k, m).exp().tolist()},
        "p1_below_0.1": below,
        "p2_below_0.1": (sample > at2).double().mean().item(),
        "p2_below_0.1_at_most": 1 - 0.05 ** (1 / count) if sample[-1] <= at2 else None,  # 95 %, where none was seen
        "samples": count,
    }


def draw_noise(rows: int, seed: int) -> Tensor:
    """Gaussian noise, `(rows, 4, 64, 64)`."""
    return torch.randn(rows, *LATENT.shape, generator=torch.Generator().manual_seed(seed))


def _correlate(z: Tensor, axis: int) -> Tensor:
    """Each element mixed with a third of the one before it."""
    return (z + z.roll(1, axis) / 3) / math.sqrt(1 + 1 / 9)


def _wave(z: Tensor) -> Tensor:
    """A slow wave down the image, of a tenth of the power."""
    wave = (2 * math.pi * torch.arange(64) / 64).sin()[:, None] * math.sqrt(2)
    return math.sqrt(0.9) * z + math.sqrt(0.1) * wave


def _spikes(z: Tensor, even: bool) -> Tensor:
    """One element in 64 is 8 or -8, all others 0: scattered, or equally often at each place of a block of 4."""
    flat = z.flatten(1)
    count = LATENT.size // 64
    chosen = flat[:, : LATENT.size // 4].argsort(1)[:, :count]  # blocks, by chance
    place = torch.arange(count) % 4 if even else (flat[:, -count:] * 1e4).long() % 4
    sign = flat[:, -2 * count : -count].sign()
    return torch.zeros_like(flat).scatter_(1, 4 * chosen + place, 8 * sign).view_as(z)


def _hole(z: Tensor) -> Tensor:
    """A patch of 16 x 16 set to zero."""
    z = z.clone()
    z[..., :16, :16] = 0
    return z


FLAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "none (fresh noise)": lambda z: z,
    "scaled by 1.03": lambda z: 1.03 * z,
    "scaled by 1.1": lambda z: 1.1 * z,
    "shifted by 0.04": lambda z: z + 0.04,
    "one channel of four scaled by 0.9": lambda z: z * torch.tensor([0.9, 1, 1, 1])[:, None, None],
    "neighbors along a row correlated": lambda z: _correlate(z, 3),
    "neighbors along a column correlated": lambda z: _correlate(z, 2),
    "slow wave added": _wave,
    "constant on patches of 8 x 8": lambda z: z[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3),
    "sorted by value": lambda z: z.flatten(1).sort(1).values.view_as(z),
    "one channel a copy of another": lambda z: z[:, [0, 0, 2, 3]],
    "a patch of 16 x 16 set to zero": _hole,
    "every element +1 or -1": lambda z: z.sign(),
    "one in 64 is +-8, scattered": lambda z: _spikes(z, even=False),
    "one in 64 is +-8, evenly placed": lambda z: _spikes(z, even=True),
}


def run_tests(flaw: str, rows: int, seed: int) -> dict[str, list[float]]:
    """What each test says of noise with a flaw: log p, one per row."""
    z = FLAWS[flaw](draw_noise(rows, seed))
    both = torch.minimum(*log_bounds(z.flatten(1), block=4, permutations=100, family="random"))
    strict = strict_probability(z, Layout((LATENT,)))[0]
    parts = (both[:, 0], both[:, 1:].amin(1), both.amin(1), strict.clamp(min=1e-300).log())
    return {name: part.tolist() for name, part in zip(TESTS, parts, strict=True)}


def power(found: dict[str, dict[str, list[float]]], calm: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """How often each test rejects each flaw, at its own 1 % quantile of fresh noise; intervals after Wilson."""
    told: dict[str, dict[str, Any]] = {}
    for flaw, scores in found.items():
        told[flaw] = {}
        for test in TESTS:
            threshold = torch.tensor(calm[test], dtype=torch.float64).quantile(0.01)
            seen = (torch.tensor(scores[test], dtype=torch.float64) < threshold).double()
            count, share, z2 = len(seen), seen.mean().item(), 1.96**2
            middle = (share + z2 / (2 * count)) / (1 + z2 / count)
            half = 1.96 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
            told[flaw][test] = {"share": share, "low": middle - half, "high": middle + half, "n": count}
    return told


def conduct(request: Request) -> Outcome:
    """Tails, then power."""
    count, rows = request.pick(500_000, 50_000, 500), request.pick(60, 40, 2)
    packs, fresh = request.pick(12, 5, 1), request.pick(50, 50, 3)
    some = {(k, m): max(count // 25, 200) if k > 8 else count for k, m in SIZES}
    curves = request.cells({
        f"k = {k}, m = {m}": Cell({"tails": [k, m], "samples": samples}, partial(tails, samples, k, m))
        for (k, m), samples in some.items()
    })  # fmt: skip
    calms = request.cells({
        pack: Cell({"fresh": pack, "rows": 50}, partial(run_tests, "none (fresh noise)", fresh, 1000 + pack))
        for pack in range(packs)
    })  # fmt: skip
    calm = {test: [value for one in calms.values() for value in one[test]] for test in TESTS}
    found = request.cells(
        {flaw: Cell({"flaw": flaw, "rows": rows}, partial(run_tests, flaw, rows, 1)) for flaw in FLAWS}
    )
    seen = power(found, calm)
    likely = torch.tensor(calm["P(z)"]).exp()
    quantiles = dict(
        zip(("1 %", "50 %", "99 %"), likely.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist(), strict=True)
    )
    results = {"tails": curves, "fresh_P(z)_quantiles": quantiles, "power": seen}
    hold = all(
        tail <= bound + 2 * math.sqrt(bound * (1 - bound) / one["samples"])
        for one in curves.values() for part in ("m1", "m2")
        for tail, bound in zip(one[part]["tail"], one[part]["bound"], strict=True)
    )  # fmt: skip
    settings = {
        "samples": count, "samples_of_k_64": max(count // 25, 200), "rows": rows, "fresh_rows": len(likely),
        "shape": list(LATENT.shape), "block": 4, "permutations": 100,
        "seeds": f"tails 0, fresh 1000 to {999 + packs}, flaws 1",
    }  # fmt: skip
    return Outcome(
        verdict=verdict(hold, curves, quantiles, seen),
        agreement="agrees" if hold else "contradicts",
        settings=settings,
        results=results,
        table=table(seen),
        figure=draw(curves, seen),
    )


def verdict(hold: bool, curves: dict[str, Any], quantiles: dict[str, float], seen: dict[str, Any]) -> str:
    """Whether the bounds hold, how loose they are, and what permutations add."""
    most1 = max(one["p1_below_0.1"] for one in curves.values())
    most2 = max(one["p2_below_0.1_at_most"] or one["p2_below_0.1"] for one in curves.values())
    only = [flaw for flaw, by in seen.items() if by["permuted"]["low"] > by["ordered"]["high"]]
    lost = [flaw for flaw, by in seen.items() if by["ordered"]["low"] > by["permuted"]["high"]]
    blind = [flaw for flaw, by in list(seen.items())[1:] if by["P(z)"]["share"] < 0.1]
    return (
        f"both bounds {'hold' if hold else 'are broken'} at every size, and are loose: p1 < 0.1 happens to at most "
        f"{most1:.2%} of Gaussian noises, p2 < 0.1 to at most {most2:.3%} (95 % bound); "
        f"fresh noise has P(z) between {quantiles['1 %']:.2f} and {quantiles['99 %']:.2f} (1 % and 99 % quantiles). "
        f"Of {len(seen) - 1} flaws random orders see "
        f"{len(only)} better than the order given ({'; '.join(only) or 'none'}) and {len(lost)} worse "
        f"({'; '.join(lost) or 'none'}); P(z) misses {len(blind)} ({'; '.join(blind) or 'none'})"
    )


def table(seen: dict[str, Any]) -> list[list[str]]:
    """How often each flaw is seen."""
    lines = [["flaw", "order given", "100 random orders", "both: P(z)", "strict P(z)"]]
    return lines + [[flaw, *(f"{100 * by[test]['share']:.0f} %" for test in TESTS)] for flaw, by in seen.items()]


def draw(curves: dict[str, Any], seen: dict[str, Any]) -> Figure:
    """Tails under their bounds, and how often each flaw is seen, as a table in shades of gray."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    panels = left.subplots(len(curves) // 2, 4)
    for (name, one), pair in zip(curves.items(), panels.reshape(-1, 2), strict=True):
        for axes, part in zip(pair, ("m1", "m2"), strict=True):
            axes.plot(one[part]["at"], one[part]["bound"], "--", color="black", label=f"bound p{part[1]}")
            tail = [value or math.nan for value in one[part]["tail"]]
            axes.plot(one[part]["at"], tail, color="0.45", linewidth=2, label=f"Pr[{part.upper()} > M]")
            axes.set(yscale="log", ylim=(1e-6, 2), xlabel="M", title=name)
            axes.title.set_fontsize(8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    panels[0, 0].set_ylabel("probability")
    panels[1, 0].set_ylabel("probability")
    axes = right.subplots()
    shares = [[by[test]["share"] for test in TESTS] for by in seen.values()]
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(shares):
        for x, share in enumerate(line):
            color = "white" if share > 0.5 else "black"
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(4), ["order given", "100 random\norders", "both: P(z)", "strict P(z)"], fontsize=8)
    axes.set_yticks(range(len(seen)), list(seen), fontsize=8)
    axes.set_title("noise samples rejected, %; each test at 1 % of false alarms", fontsize=9, loc="right")
    return figure


if __name__ == "__main__":
    main("concentration", CLAIM, conduct)
