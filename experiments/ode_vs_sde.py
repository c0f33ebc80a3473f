r"""ODE or SDE: does noise in every step, not only at the start, make optimization faster?

*Speed.* The same samplers at eta 0, 0.25, 0.5 and 1 climb the same rewards from the same starts, with Adam as the paper
does, and on the toys also by plain steps of 1 / L, each map with its own L: Adam moves every element of the noise by
about its rate, so that with more elements it also goes further at each move. Rewards are compared at equal moves, which
is what the paper plots, and at equal denoiser calls and seconds.

*Why.* The paper argues that the gradient with respect to all noise is longer than its part at the start, and the gain
guaranteed by Theorem 1 grows with it. That compares two sets of variables of one map, where it is trivially so. What
would explain speed is a comparison of two maps: the whole squared gradient and the smoothness constant L of the map
with eta = 1 beside those of the map with eta = 0, and the gain guaranteed at the best step size, :math:`\mathbb{E}
\|\nabla f\|^2 / 2L`. For Gaussian data with an exact denoiser both maps have (up to discretization) the same
:math:`J J^\top`, the covariance of the data, so that nothing is gained there whatever eta; the other maps are measured.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments import built_in
from experiments.frame import Claim, Outcome, Request, main
from experiments.report import interval, say
from experiments.ring_model import inside, taught, waves
from experiments.smoothness import curvature, in_packs
from noiseward import Budget, GradientAscent, Objective, iterate
from noiseward.toys import GaussianModel, Quadratic

CLAIM = Claim(
    title="ODE against SDE (Figure 4)",
    paper="optimizing the noise of an SDE sampler raises the reward in fewer ascent steps than optimizing the start of "
    "an ODE sampler, which is explained by the larger gradient with respect to more noise",
    source="Figure 4; the explanation as its public reviews discuss it",
    minutes=120,
)
ETAS = (0.0, 0.25, 0.5, 1.0)
TOYS = ("Gaussian toy", "ring")
RATE = 0.01
STYLES = {0.0: ("0", "-", "o"), 0.25: ("0.3", "--", "s"), 0.5: ("0.5", ":", "v"), 1.0: ("C1", "-.", "^")}


def rewards() -> tuple[str, ...]:
    """The built-in model's three."""
    return ("brightness", "contrast", "clip" if built_in.installed("clip") else "darkness")


def problem(name: str, eta: float, rows: int, request: Request) -> tuple[Objective, Tensor]:
    """What is climbed, and from where; rows have the same start at every eta."""
    if name == "Gaussian toy":
        sampler = GaussianModel(steps=100, dim=4, eta=eta).sampler()
        return Objective(sampler, Quadratic(2.0)), sampler.init(rows, seed=0)
    if name == "ring":
        sampler = taught(request).sampler(eta=eta)
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


def climb(name: str, eta: float, size: float | None, request: Request, *, rows: int, moves: int) -> dict[str, Any]:
    """One run, with Adam or by plain steps of a size: numbers per move and row, and its bill."""
    objective, start = problem(name, eta, rows, request)
    plain = {"update": torch.optim.SGD, "lr": size, "max_norm": None}
    optimizer = GradientAscent(**({"lr": RATE} if size is None else plain))
    told: dict[str, Any] = {"reward": [], "seconds": [], "nfe": [], "probability": []}
    for step in iterate(objective, start, optimizer=optimizer, budget=Budget(steps=moves)):
        told["reward"].append(step.evaluation.reward.tolist())
        told["probability"].append(step.probability.median().item())
        told["seconds"].append(step.seconds)
        told["nfe"].append(step.nfe.cost)
        last = step.evaluation.sample
    return {**told, "inside": inside(last).float().mean().item() if name == "ring" else None}


def conduct(request: Request) -> Outcome | None:
    """Slopes and climbs of every map at every eta."""
    maps = (*TOYS, *(f"stickers, {reward}" for reward in rewards()))
    wanted = getattr(request.given, "models", None) or request.pick(maps, maps, maps[1:3])
    steep: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = {}
    work = list(itertools.product([name for name in maps if name in wanted], request.pick(ETAS, ETAS, ETAS[::3])))
    for number, (name, eta) in enumerate(work):
        if not request.mine(number):
            continue
        picture = name.startswith("stickers")
        rows = request.pick(16, 4, 1) if picture else request.pick(128, 64, 4)
        look = {"rows": rows, "iterations": request.pick(8, 4, 1) if picture else request.pick(20, 10, 2)}
        made = {"rows": rows, "moves": request.pick(30, 5, 1) if picture else request.pick(40, 10, 2)}
        which = {"map": name, "eta": eta, **({"model": built_in.version()} if picture else {})}
        found = request.cell(
            {**which, **look}, lambda name=name, eta=eta, look=look: slopes(name, eta, request, **look)
        )
        steep.setdefault(name, {})[str(eta)] = found
        sizes = {"Adam": None} if picture else {"Adam": None, "plain": 1 / max(found["L"])}
        for method, size in sizes.items():
            key = {**which, **made, "method": method, "size": size}
            run = request.cell(
                key, lambda name=name, eta=eta, size=size, made=made: climb(name, eta, size, request, **made)
            )
            runs.setdefault(f"{name}, {method}", {})[str(eta)] = run
        print(name, eta, {method: sum(runs[f"{name}, {method}"][str(eta)]["reward"][-1]) / rows for method in sizes},
              flush=True)  # fmt: skip
    if request.part:
        return None
    speed = {name: {eta: told(run, by["0.0"]) for eta, run in by.items()} for name, by in runs.items()}
    slope = {name: {eta: weighed(one) for eta, one in by.items()} for name, by in steep.items()}
    settings = {
        "etas": ETAS, "rate": RATE, "rows": request.pick([128, 16], [64, 4], [4, 1]), "stickers": built_in.CALL,
        "moves": request.pick([40, 30], [10, 5], [2, 1]), "seeds": "toys: 0, 1, ...; stickers: 1000, 1001 each caption",
    }  # fmt: skip
    faster = sum(one["1.0"]["ahead"]["mean"] - one["1.0"]["ahead"]["half"] > 0 for one in speed.values())
    slower = sum(one["1.0"]["ahead"]["mean"] + one["1.0"]["ahead"]["half"] < 0 for one in speed.values())
    return Outcome(
        verdict=verdict(speed, slope, faster, slower),
        agreement="agrees" if faster == len(speed) else "agrees in part" if faster > slower else "contradicts",
        settings=settings,
        results={"speed": speed, "slope": slope},
        table=table(speed, slope),
        figure=draw(speed, slope),
    )


def told(run: dict[str, Any], ode: dict[str, Any]) -> dict[str, Any]:
    """A run in means, and how far it is ahead of the ODE's at the same move, row by row."""
    ahead = [b - a for a, b in zip(ode["reward"][-1], run["reward"][-1], strict=True)]
    half = len(run["reward"]) // 2
    early = [b - a for a, b in zip(ode["reward"][half], run["reward"][half], strict=True)]
    return {
        "reward": [interval(row) for row in run["reward"]],
        "gain": interval([b - a for a, b in zip(run["reward"][0], run["reward"][-1], strict=True)]),
        "ahead": interval(ahead),
        "ahead_halfway": interval(early),
        "seconds": run["seconds"],
        "nfe": run["nfe"],
        "probability": run["probability"][-1],
        "inside": run["inside"],
    }


def weighed(one: dict[str, Any]) -> dict[str, Any]:
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
    ahead = "; ".join(
        f"{name} {one['1.0']['ahead']['mean']:+.3g} ± {one['1.0']['ahead']['half']:.2g}" for name, one in speed.items()
    )
    why = "; ".join(
        f"{name} {by['1.0']['square']['mean'] / by['0.0']['square']['mean']:.2f} and "
        f"{by['1.0']['L_max'] / by['0.0']['L_max']:.2f}"
        for name, by in slope.items()
    )
    return (
        f"at equal moves eta = 1 ends ahead of eta = 0 in {faster} of {len(speed)} problems and behind in {slower} "
        f"({ahead}); squared gradient and L of the eta = 1 map are those of the eta = 0 map times: {why}"
    )


def table(speed: dict[str, Any], slope: dict[str, Any]) -> list[list[str]]:
    """Per problem and eta: what was gained, and the slopes."""
    lines = [["problem", "eta", "gained at the end", "ahead of eta 0", "P(z), median",
              "squared gradient, fresh noise", "of it at the start", "L, largest seen",
              "gain guaranteed at 1/L"]]  # fmt: skip
    for name, by in speed.items():
        steep = slope[name.rpartition(",")[0]]
        for eta, one in by.items():
            at = steep[eta]
            ahead = "" if eta == "0.0" else say(one["ahead"], 3)
            share = at["start"]["mean"] / at["square"]["mean"]
            lines.append([
                name, eta, say(one["gain"], 3), ahead, f"{one['probability']:.2g}", say(at["square"], 4),
                f"{share:.0%}", f"{at['L_max']:.3g}", say(at["guaranteed"], 4),
            ])  # fmt: skip
    return lines


def draw(speed: dict[str, Any], slope: dict[str, Any]) -> Figure:
    """Reward against moves, calls and seconds, a row per problem; and the slopes."""
    figure = Figure(figsize=(15, 2.9 * len(speed)), layout="constrained")
    panels = figure.subplots(len(speed), 4, squeeze=False)
    for row, (name, by) in zip(panels, speed.items(), strict=True):
        for eta, one in by.items():
            color, line, mark = STYLES[float(eta)]
            mean, half = ([reward[part] for reward in one["reward"]] for part in ("mean", "half"))
            every = max(1, len(mean) // 6)
            for axes, x in zip(row, (range(len(mean)), one["nfe"], one["seconds"]), strict=False):
                axes.errorbar(
                    x, mean, half, color=color, linestyle=line, marker=mark, markevery=every, errorevery=every,
                    markersize=4, capsize=2, label=f"eta {eta}",
                )  # fmt: skip
        steep = slope[name.rpartition(",")[0]]
        base = steep["0.0"]
        for part, offset, shade in (("square", -0.2, "0.25"), ("L_max", 0.0, "0.6"), ("guaranteed", 0.2, "0.9")):
            value = [at[part]["mean"] if part != "L_max" else at[part] for at in steep.values()]
            unit = base[part]["mean"] if part != "L_max" else base[part]
            error = None if part == "L_max" else [at[part]["half"] / unit for at in steep.values()]
            row[3].bar(
                [k + offset for k in range(len(value))], [one / unit for one in value], 0.2, yerr=error, capsize=2,
                color=shade, edgecolor="black", linewidth=0.6,
                label={"square": "squared gradient", "L_max": "L", "guaranteed": "guaranteed gain"}[part],
            )  # fmt: skip
        row[3].set_xticks(range(len(steep)), [f"eta {eta}" for eta in steep])
        row[3].axhline(1, color="black", linewidth=0.6)
        row[3].set_ylabel("fresh noise, eta 0 = 1")
        row[3].legend(fontsize=7)
        for axes, label in zip(row, ("moves", "denoiser calls (a backward counts 2)", "seconds"), strict=False):
            axes.set(xlabel=label, ylabel="mean reward")
            axes.set_title(name, fontsize=9)
            axes.grid(alpha=0.3)
        row[0].legend(fontsize=7)
    return figure


def options(parser: argparse.ArgumentParser) -> None:
    """Which maps."""
    parser.add_argument("--models", nargs="*", help="these only, as: ring 'stickers, brightness'")


if __name__ == "__main__":
    main("ode_vs_sde", CLAIM, conduct, options=options)
