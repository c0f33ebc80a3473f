"""Which way of climbing without the reward's gradient gets how far for how many denoiser calls? On the built-in model.

The paper claims that of its three estimators Hybrid-2 is the fastest and the best. Here they meet, with 4 and 16
candidates per step, and four searches that use no gradient at all, on rewards that have none (`jpeg`) or whose gradient
is withheld. Each method makes one long run per caption and seed; every smaller budget is read off it. A run ends when
its denoiser calls, a backward counting 2, are spent. Beside the reward stands how plausible the noise still is, P(z)
and the strict probability, and, where the built-in judge is installed, whether it sees what was asked for.

The ring toy has a part of its own: Hybrid-2 against the exact gradient on the paper's two-dimensional example.

    python -m experiments.black_box [--small] [--part 0/2]

Runs that are done are kept (`cells.py`) and not made again: interrupt it when you like, or share it among processes.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.cells import cell, mine
from experiments.judge import right_noun
from experiments.report import interval, write
from noiseward import Budget, FunctionReward, FunctionSampler, Hybrid2, Objective, Reward, align, iterate, stickers
from noiseward.ascend import GradientAscent
from noiseward.rewards import named
from noiseward.rewards.dual_encoder import DualEncoder

CAPTIONS = ("a duck", "a rabbit", "a heart")
REWARDS = ("jpeg", "darkness", "clip")  # the last two as black boxes; clip where it is installed
METHODS = {
    "backprop": {"estimator": "backprop"},  # what a gradient is worth, where there is one
    **{
        f"{name}, {samples}": {"estimator": f"{name}:samples={samples}"}
        for name in ("zeroth-order", "hybrid1", "hybrid2")
        for samples in (4, 16)
    },
    "hybrid2, 16, published scale": {"estimator": "hybrid2:samples=16,scale=0.01"},
    **{name: {"optimizer": name} for name in ("best-of-n", "zero-order", "trust-region", "evolution")},
}
STEPS = 10  # of the sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one caption, one seed, jpeg, 400 calls")
    parser.add_argument("--part", help="i/n: make the i-th of n shares of the runs, and write no results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    captions, seeds, nfe = (CAPTIONS[:1], 1, 400) if small else (CAPTIONS, 2, 3_000)
    budgets = [nfe // 8, nfe // 4, nfe // 2, nfe]
    results: dict[str, dict[str, Any]] = {}
    count = 0
    for reward in REWARDS[:1] if small else REWARDS:
        score = installed(reward)
        if score is None:
            print(f"reward '{reward}' is not installed: left out", flush=True)
            continue
        results[reward] = {}
        for name, how in METHODS.items():
            if name == "backprop" and not score.differentiable:
                continue
            runs = []
            for caption, seed in itertools.product(captions, range(seeds)):
                count += 1
                if mine(count, arguments.part):
                    key: dict[str, Any] = dict(reward=reward, how=how, caption=caption, seed=seed, nfe=nfe, steps=STEPS)
                    seen = score if name == "backprop" else hidden(score)
                    runs.append(cell("black_box", key, lambda key=key, seen=seen: made(seen, **key)))
            if runs:
                results[reward][name] = summary(runs, budgets)
                print(reward, name, results[reward][name]["gain"][str(nfe)], flush=True)
    if arguments.part:
        return
    ring = ring_curve(5 if small else 50)
    settings = {
        "captions": captions, "seeds": seeds, "nfe": nfe, "num_inference_steps": STEPS, "guidance_scale": 3.0,
        "eta": 1.0, "budgets": budgets, "small": small,
    }  # fmt: skip
    results["ring"] = ring
    figure = draw({name: part for name, part in results.items() if name != "ring"}, ring)
    name = "black_box_small" if small else "black_box"
    write(name, settings=settings, results=results, verdict=verdict(results), figure=figure)


def installed(name: str) -> Reward | None:
    """A reward; None where the model it needs is not there."""
    if name != "clip":
        return named(name)
    return DualEncoder.load(stickers.path("clip"), name="clip") if stickers.path("clip").exists() else None


def hidden(reward: Reward) -> Reward:
    """A reward without its gradient."""
    return FunctionReward(lambda images, prompt: reward(images, prompt), differentiable=False, name=reward.name)


def fits(sample: Tensor, caption: str) -> float | None:
    """Whether the judge, who is climbed by nobody, sees in a picture what was asked for; None without a judge."""
    return right_noun(sample, [caption.removeprefix("a ")])[0] if stickers.path("judge").exists() else None


def made(score: Reward, *, how: dict[str, str], caption: str, seed: int, nfe: int, **rest: Any) -> dict[str, Any]:
    """One run, as plain numbers."""
    chosen: dict[str, Any] = {**how, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    solution = align("stickers", caption, score, nfe=nfe, seed=100 + seed, progress=False, **chosen)
    spent = [record["nfe"] for record in solution.history]
    return {
        "calls": [one["forward"] + 2 * one["backward"] + one["recomputed"] for one in spent],
        "reward": [record["reward"][0] for record in solution.history],
        "probability": solution.probability[0],
        "strict": solution.strict_probability[0],
        "fits": fits(solution.sample, caption),
        "fitted": fits(solution.initial.sample, caption),
        "seconds": solution.seconds,
    }


def gained(run: dict[str, Any], budget: int) -> float:
    """What the best within a budget has more than the start."""
    within = [reward for calls, reward in zip(run["calls"], run["reward"], strict=True) if calls <= budget]
    return max(within, default=run["reward"][0]) - run["reward"][0]


def summary(runs: list[dict[str, Any]], budgets: list[int]) -> dict[str, Any]:
    """Means over runs, with intervals."""
    known = [run for run in runs if run["fits"] is not None]
    return {
        "gain": {str(budget): interval([gained(run, budget) for run in runs]) for budget in budgets},
        "probability": interval([run["probability"] for run in runs]),
        "strict": interval([run["strict"] for run in runs]),
        "fits": interval([run["fits"] for run in known]) if known else None,
        "fitted_before": interval([run["fitted"] for run in known]) if known else None,
        "seconds": interval([run["seconds"] for run in runs]),
    }


def ring_curve(moves: int) -> dict[str, dict[str, list[float]]]:
    """Mean reward of 64 points of the ring against moves, by the exact gradient and by Hybrid-2.

    The paper's toy: points around the origin at radii 0.8 to 1.2, and r = sin(4 pi x) + sin(4 pi y) - ((x - 1)^2 -
    y^2) / 5. The sampler is a noise turned into such a point, z -> (0.8 + 0.4 Phi(z_3)) z_12 / |z_12|, in place of a
    trained model.
    """

    def fn(batch: int) -> Tensor:
        z = torch.randn(batch, 3)
        radius = 0.8 + 0.4 * torch.special.ndtr(z[:, 2:])
        return radius * z[:, :2] / z[:, :2].norm(dim=1, keepdim=True).clamp(min=1e-3)

    def waves(x: Tensor) -> Tensor:
        return (4 * math.pi * x).sin().sum(1) - ((x[:, 0] - 1).square() - x[:, 1].square()) / 5

    sampler = FunctionSampler(fn)
    ways: dict[str, GradientAscent] = {
        "exact gradient": GradientAscent(lr=0.01),
        **{f"hybrid2, {q}": GradientAscent(Hybrid2(q, 0.01, chunk=4096), lr=0.01) for q in (4, 16)},
    }
    curves = {}
    for name, optimizer in ways.items():
        objective = Objective(sampler, FunctionReward(waves, name="waves"))
        steps = iterate(objective, sampler.init(64, seed=0), optimizer=optimizer, budget=Budget(steps=moves))
        rewards = [(step.evaluation.reward.mean().item(), step.nfe.forward) for step in steps]
        curves[name] = {"reward": [reward for reward, _ in rewards], "runs": [float(runs) for _, runs in rewards]}
    return curves


def verdict(results: dict[str, Any]) -> str:
    """Per reward the methods from best to worst at the full budget, and whether Hybrid-2 leads the estimators."""
    said = []
    for reward, methods in results.items():
        if reward == "ring" or not methods:
            continue
        last = {name: list(found["gain"].values())[-1] for name, found in methods.items()}
        order = sorted(last, key=lambda name: -last[name]["mean"])
        said.append(reward + ": " + ", ".join(f"{name} +{last[name]['mean']:.3g}" for name in order))
    ends = ", ".join(f"{name} {curve['reward'][-1]:.2f}" for name, curve in results["ring"].items())
    return "; ".join([*said, f"ring: {ends}"])


def draw(results: dict[str, dict[str, Any]], ring: dict[str, dict[str, list[float]]]) -> Figure:
    """Gain against denoiser calls, one panel per reward, and the ring."""
    figure = Figure(figsize=(4.2 * (len(results) + 1), 3.8), layout="constrained")
    axes = figure.subplots(1, len(results) + 1)
    styles: Callable[[], Any] = lambda: itertools.cycle(itertools.product(("-", "--", ":"), "ovs^D"))  # noqa: E731
    for axis, (reward, methods) in zip(axes, results.items(), strict=False):
        for (name, found), (line, marker) in zip(methods.items(), styles(), strict=False):
            calls = [int(budget) for budget in found["gain"]]
            means = [gain["mean"] for gain in found["gain"].values()]
            halves = [gain["half"] for gain in found["gain"].values()]
            axis.errorbar(calls, means, halves, linestyle=line, marker=marker, capsize=3, markersize=4, label=name)
        axis.set(xscale="log", xlabel="denoiser calls (a backward counts 2)", ylabel=f"{reward} gained")
        axis.grid(alpha=0.3)
    for name, curve in ring.items():
        axes[-1].plot(curve["reward"], label=name)
    axes[-1].set(xlabel="moves", ylabel="mean reward on the ring")
    axes[-1].legend(fontsize=7)
    axes[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
