r"""ODE or SDE: does noise in every step, not only at the start, make optimization faster?

*Speed.* The same samplers at eta 0, 0.25, 0.5 and 1 optimize the same rewards from the same starts, with Adam, as the
published code does, and on the toys also by plain steps of 1 / L, each map with its own L. Adam changes every element
of the noise by about its rate, so that with more elements it also goes further at each step; it is compared with an ODE
whose rate is raised until its steps are as long. Rewards are compared at equal steps, which is what the paper plots,
and at equal denoiser calls and seconds.

*Why.* The paper argues that the gradient with respect to all noise is longer than its part at the start, and the gain
guaranteed by Theorem 1 grows with it. That compares two sets of variables of one map, where it is trivially so. What
would explain speed is a comparison of two maps: the whole squared gradient and the smoothness constant L of the map
with eta = 1 next to those of the map with eta = 0, and the gain guaranteed at the best step size, :math:`\mathbb{E}
\|\nabla f\|^2 / 2L`. For Gaussian data with an exact denoiser both maps have (up to discretization) the same
:math:`J J^\top`, the covariance of the data, so that nothing is gained there whatever eta; the other maps are measured.
"""

from __future__ import annotations

import argparse
import itertools
import math
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import built_in
from experiments.anytime import clock
from experiments.cells import Cell
from experiments.claim import Agreement, Claim, Outcome
from experiments.frame import Request, main
from experiments.report import format_mean, interval
from experiments.ring_model import inside, load_ring, waves
from experiments.smoothness import curvature, in_packs
from noiseward import Budget, GradientAscent, Objective, iterate
from noiseward.toys import GaussianModel, Quadratic

CLAIM = Claim(
    title="ODE against SDE (Figure 4)",
    paper="optimizing the noise of an SDE sampler raises the reward in fewer ascent steps than optimizing the start of "
    "an ODE sampler, which is explained by the larger gradient with respect to more noise",
    source="Figure 4; the explanation as its public reviews discuss it",
    minutes=55,
)
ETAS = (0.0, 0.25, 0.5, 1.0)
TOYS = ("Gaussian toy", "ring")
RATE = 0.01
FAR = "0.0 as far"  # the ODE at a rate that makes Adam's steps as long as the SDE's
STYLES = {"0.0": ("0", "-", "o"), FAR: ("0", "--", "D"), "0.25": ("0.3", "--", "s"), "0.5": ("0.5", ":", "v"),
          "1.0": ("C1", "-.", "^")}  # fmt: skip


def rewards() -> tuple[str, ...]:
    """The built-in model's three."""
    return ("brightness", "contrast", "clip" if built_in.is_installed("clip") else "darkness")


def problem(name: str, eta: float, rows: int, request: Request) -> tuple[Objective, Tensor]:
    """The objective, and the noise to start from; rows have the same start at every eta."""
    if name == "Gaussian toy":
        sampler = GaussianModel(steps=100, dim=4, eta=eta).sampler()
        return Objective(sampler, Quadratic(2.0)), sampler.init(rows, seed=0)
    if name == "ring":
        sampler = load_ring(request).sampler(eta=eta)
        return Objective(sampler, waves), sampler.init(rows, seed=0)
    prompts, seeds = built_in.pairs(max(1, rows // 2), min(rows, 2))
    steps = {"num_inference_steps": 2} if request.size == "smoke" else {}
    objective = built_in.objective(name.rpartition(" ")[2], prompts, eta=eta, **steps)
    return objective, objective.sampler.init(rows, seed=seeds)


def slopes(name: str, eta: float, request: Request, *, rows: int, iterations: int) -> dict[str, Any]:
    """Squared gradient, its part at the start, and L at fresh noise."""
    objective, start = problem(name, eta, rows, request)
    layout, pack = objective.sampler.layout, 4 if name.startswith("stickers") else rows
    parts = in_packs(
        lambda some: curvature(objective.rows(range(rows)[some]), start[some], iterations=iterations), rows, pack
    )
    square, local = parts
    variable = start.detach().requires_grad_(True)
    gradients = []
    for some in torch.arange(rows).split(pack):
        part = objective.rows(some.tolist())(variable[some]).reward.sum()
        gradients.append(torch.autograd.grad(part, variable)[0][some])
    first = layout.split(torch.cat(gradients))[0].flatten(1).square().sum(1)
    return {"square": square.tolist(), "L": local.tolist(), "start": first.tolist()}


def optimize(
    name: str, eta: float, rate: float, request: Request, *, method: str, rows: int, steps: int
) -> dict[str, Any]:
    """One run, with Adam or by plain steps: numbers per step and row, and what it cost."""
    objective, start = problem(name, eta, rows, request)
    plain = GradientAscent(update=torch.optim.SGD, lr=rate, max_norm=None)
    optimizer = GradientAscent(lr=rate) if method == "Adam" else plain
    record: dict[str, Any] = {"reward": [], "seconds": [], "nfe": [], "probability": []}
    own = clock(start.device)
    for step in iterate(objective, start, optimizer=optimizer, budget=Budget(steps=steps), clock=own):
        record["reward"].append(step.evaluation.reward.tolist())
        record["probability"].append(step.probability.median().item())
        record["seconds"].append(step.seconds)
        record["nfe"].append(step.nfe.cost)
        last = step.evaluation.sample
    return {**record, "inside": inside(last).float().mean().item() if name == "ring" else None}


def describe(name: str, eta: Any) -> dict[str, Any]:
    """The map of a cell, as part of its key."""
    return {"map": name, "eta": eta, **({"model": built_in.version()} if name.startswith("stickers") else {})}


def conduct(request: Request) -> Outcome:
    """Slopes and runs of every map at every eta."""
    maps = (*TOYS, *(f"stickers, {reward}" for reward in rewards()))
    names = getattr(request.given, "models", None) or request.pick(maps, maps, maps[1:3])
    work = list(itertools.product([name for name in maps if name in names], request.pick(ETAS, ETAS, ETAS[::3])))
    looks: dict[tuple[str, Any], Cell] = {}
    for name, eta in work:
        is_image = name.startswith("stickers")
        look = {"rows": request.pick(16, 4, 1) if is_image else request.pick(128, 64, 4),
                "iterations": request.pick(8, 4, 1) if is_image else request.pick(20, 10, 2)}  # fmt: skip
        looks[name, eta] = Cell({**describe(name, eta), **look}, partial(slopes, name, eta, request, **look))
    found = request.cells(looks)
    cells: dict[tuple[str, str], Cell] = {}
    for name, eta in work:
        is_image = name.startswith("stickers")
        rows = request.pick(16, 4, 1) if is_image else request.pick(128, 64, 4)
        steps = request.pick(30, 5, 1) if is_image else request.pick(40, 10, 2)
        ways = [("Adam", str(eta), RATE)]
        if eta == 0:  # as many times the rate as eta = 1 has more live elements, under the root
            ways.append(("Adam", FAR, RATE * math.sqrt(built_in.CALL["num_inference_steps"] if is_image else 100)))
        if not is_image:
            ways.append(("plain", str(eta), 1 / max(found[name, eta]["L"])))
        for method, label, rate in ways:
            key = {**describe(name, eta), "rows": rows, "moves": steps, "method": method, "rate": rate}
            compute = partial(optimize, name, eta, rate, request, method=method, rows=rows, steps=steps)
            cells[f"{name}, {method}", label] = Cell(key, compute)
    steep: dict[str, dict[str, Any]] = {}
    for (name, eta), one in found.items():
        steep.setdefault(name, {})[str(eta)] = one
    runs: dict[str, dict[str, Any]] = {}
    for (name, label), run in request.cells(cells).items():
        runs.setdefault(name, {})[label] = run
    speed = {name: {label: summarize_run(run, by) for label, run in by.items()} for name, by in runs.items()}
    slope = {name: {eta: summarize_slopes(one) for eta, one in by.items()} for name, by in steep.items()}
    settings = {
        "etas": ETAS, "rate": RATE, "rows": request.pick([128, 16], [64, 4], [4, 1]), "stickers": built_in.CALL,
        "steps": request.pick([40, 30], [10, 5], [2, 1]), "seeds": "toys: 0, 1, ...; stickers: 1000, 1001 each caption",
    }  # fmt: skip
    faster, slower = (sum(is_ahead(one["1.0"], sign) for one in speed.values()) for sign in (1, -1))
    return Outcome(
        verdict=verdict(speed, slope, faster, slower),
        agreement=agreement(speed, slope),
        settings=settings,
        results={"speed": speed, "slope": slope},
        table=table(speed, slope),
        figure=draw(speed, slope),
    )


def summarize_run(run: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    """A run in means, and how far it is ahead of the ODE's runs at the last step, row by row."""

    def lead(of: str) -> dict[str, float] | None:
        pairs = zip(by[of]["reward"][-1], run["reward"][-1], strict=True) if of in by else ()
        return interval(gaps) if (gaps := [b - a for a, b in pairs]) else None

    return {
        "reward": [interval(row) for row in run["reward"]],
        "gain": interval([b - a for a, b in zip(run["reward"][0], run["reward"][-1], strict=True)]),
        "ahead": lead("0.0"),
        "ahead_of_far": lead(FAR),
        "seconds": run["seconds"],
        "nfe": run["nfe"],
        "probability": run["probability"][-1],
        "inside": run["inside"],
    }


def is_ahead(one: dict[str, Any], sign: int) -> bool:
    """Whether a run is ahead of the ODE's (or, with sign -1, behind), beyond interval and rounding."""
    gap = one["ahead"]
    return sign * gap["mean"] - (gap["half"] or 0) > 1e-6 * abs(one["gain"]["mean"])


def agreement(speed: dict[str, Any], slope: dict[str, Any]) -> Agreement:
    """Whether the SDE is ahead in every run with Adam, and a larger guaranteed gain explains it everywhere; in part
    where it is ahead somewhere and behind nowhere, or the explanation holds everywhere."""
    runs_at_1 = [one["1.0"] for name, one in speed.items() if name.endswith("Adam")]
    ahead, behind = ([is_ahead(one, sign) for one in runs_at_1] for sign in (1, -1))
    explained = all(by["1.0"]["guaranteed"]["mean"] > by["0.0"]["guaranteed"]["mean"] for by in slope.values())
    if all(ahead) and explained:
        return "agrees"
    return "agrees in part" if explained or (any(ahead) and not any(behind)) else "contradicts"


def summarize_slopes(one: dict[str, Any]) -> dict[str, Any]:
    """Slopes in means, and the gain they guarantee at the best step."""
    largest = max(one["L"])
    return {
        "square": interval(one["square"]),
        "start": interval(one["start"]),
        "L": interval(one["L"]),
        "L_max": largest,
        "guaranteed": interval([square / (2 * largest) for square in one["square"]]),
    }


def verdict(speed: dict[str, Any], slope: dict[str, Any], faster: int, slower: int) -> str:
    """Who is ahead, by how much, and whether slopes explain it."""
    ahead = "; ".join(f"{name} {format_mean(one['1.0']['ahead'], 3)}" for name, one in speed.items())
    far = "; ".join(
        f"{name} {format_mean(one['1.0']['ahead_of_far'], 3)}"
        for name, one in speed.items()
        if one["1.0"]["ahead_of_far"]
    )
    why = "; ".join(
        f"{name} {by['1.0']['square']['mean'] / by['0.0']['square']['mean']:.2f} and "
        f"{by['1.0']['L_max'] / by['0.0']['L_max']:.2f}"
        for name, by in slope.items()
    )
    return (
        f"at equal steps eta = 1 ends ahead of eta = 0 in {faster} of {len(speed)} problems and behind in {slower} "
        f"({ahead}); ahead of eta = 0 with Adam's steps as long, by {far}; squared gradient and L of the eta = 1 map "
        f"are those of the eta = 0 map times: {why}"
    )


def table(speed: dict[str, Any], slope: dict[str, Any]) -> list[list[str]]:
    """Per problem and eta: what was gained, and the slopes."""
    lines = [["problem", "eta", "gained at the end", "ahead of eta 0", "P(z), median",
              "squared gradient, fresh noise", "of it at the start", "L, largest seen",
              "gain guaranteed at 1/L"]]  # fmt: skip
    for name, by in speed.items():
        steep = slope[name.rpartition(",")[0]]
        for eta, one in by.items():
            at = steep[eta.split()[0]]
            ahead = "" if eta == "0.0" else format_mean(one["ahead"], 3)
            share = at["start"]["mean"] / at["square"]["mean"]
            lines.append([
                name, eta, format_mean(one["gain"], 3), ahead, f"{one['probability']:.2g}", format_short(at["square"]),
                f"{share:.0%}", f"{at['L_max']:.3g}", format_short(at["guaranteed"]),
            ])  # fmt: skip
    return lines


def format_short(found: dict[str, float]) -> str:
    """A mean with its interval, in digits that tell, whatever its size.

    Example:
        >>> short({"mean": 0.00001234, "half": 0.0000042})
        '1.2e-05 ± 4.2e-06'
    """
    return f"{found['mean']:.2g}" + (f" ± {found['half']:.2g}" if math.isfinite(found["half"]) else "")


def draw(speed: dict[str, Any], slope: dict[str, Any]) -> Figure:
    """Reward against steps, calls and seconds, a row per problem; and the slopes."""
    figure = Figure(figsize=(15, 2.9 * len(speed)), layout="constrained")
    panels = figure.subplots(len(speed), 4, squeeze=False)
    for row, (name, by) in zip(panels, speed.items(), strict=True):
        for eta, one in by.items():
            color, line, mark = STYLES[eta]
            mean, half = ([reward[part] for reward in one["reward"]] for part in ("mean", "half"))
            every = max(1, len(mean) // 6)
            for axes, x in zip(row, (range(len(mean)), one["nfe"], one["seconds"]), strict=False):
                axes.errorbar(
                    x, mean, half, color=color, linestyle=line, marker=mark, markevery=every, errorevery=every,
                    markersize=4, capsize=2, label=f"eta {eta}",
                )  # fmt: skip
        steep = slope[name.rpartition(",")[0]]
        base = steep["0.0"]
        for part, offset, mark, label in (
            ("square", -0.2, "o", "squared gradient"),
            ("L_max", 0.0, "s", "L"),
            ("guaranteed", 0.2, "v", "guaranteed gain"),
        ):
            value = [at[part]["mean"] if part != "L_max" else at[part] for at in steep.values()]
            unit = base[part]["mean"] if part != "L_max" else base[part]
            error = None if part == "L_max" else [at[part]["half"] / unit for at in steep.values()]
            row[3].errorbar(
                [k + offset for k in range(len(value))], [one / unit for one in value], error, marker=mark,
                linestyle="", color="0.2", markerfacecolor="white" if mark == "v" else "0.2", capsize=2, label=label,
            )  # fmt: skip
        row[3].set_yscale("log")
        row[3].set_xticks(range(len(steep)), [f"eta {eta}" for eta in steep])
        row[3].axhline(1, color="black", linewidth=0.6)
        row[3].set_ylabel("fresh noise, eta 0 = 1")
        row[3].set_title(name.rpartition(",")[0], fontsize=9)
        for axes, label in zip(
            row,
            ("optimization steps", "denoiser calls (a backward counts 2)", "seconds of the processor"),
            strict=False,
        ):
            axes.set(xlabel=label, ylabel="mean reward")
            axes.set_title(name, fontsize=9)
            axes.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    more, names = panels[0][3].get_legend_handles_labels()
    figure.legend([*handles, *more], [*labels, *names], loc="outside upper center", ncols=len(labels) + len(names))
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Which maps."""
    parser.add_argument("--models", nargs="*", help="these only, as: ring 'stickers, brightness'")


if __name__ == "__main__":
    main("ode_vs_sde", CLAIM, conduct, options=options)
