"""How far does each method get without the reward's gradient, by denoiser calls? On the built-in model.

The paper claims that of its three estimators Hybrid-2 is the fastest and the best. Here they meet, with 4 and 16
candidates per step, and four searches that use no gradient at all, on rewards that have none (`jpeg`) or whose gradient
is withheld. Each method makes one long run per caption and seed, all in one batch; every smaller budget is read off it.
A run ends when its denoiser calls, a backward counting 2, are spent. Reported next to the reward: how plausible the
noise still is, P(z) and the strict probability, and, where the built-in judge is installed, whether it sees what was
asked for.

Hybrid-2 on the ring toy is in `ring.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from experiments import built_in
from experiments.cells import Cell
from experiments.claim import Agreement, Claim, Outcome
from experiments.frame import Request, main
from experiments.judge import judge_nouns
from experiments.report import format_mean, interval
from noiseward import FunctionReward, Reward, align
from noiseward.rewards.parse import make_reward

CLAIM = Claim(
    title="Rewards without a gradient",
    paper="of zeroth-order, Hybrid-1 and Hybrid-2 gradients, Hybrid-2 shows strong performance and efficiency",
    source="its summary; budgets and rewards are this project's",
    minutes=60,
)
CAPTIONS = ("a duck", "a rabbit", "a heart")
REWARDS = ("jpeg", "darkness", "clip")  # the last two as black boxes; clip where it is installed
ESTIMATORS = ("zeroth-order", "hybrid1", "hybrid2")
METHODS = {
    "backprop": "dno:estimator=backprop",  # what a gradient is worth, where there is one
    **{f"{name}, {samples}": f"dno:estimator={name}:samples={samples}" for name in ESTIMATORS for samples in (4, 16)},
    "hybrid2, 16, published scale": "dno:estimator=hybrid2:samples=16,scale=0.01",
    **{name: name for name in ("best-of-n", "zero-order", "trust-region", "evolution")},
}


def conduct(request: Request) -> Outcome:
    """Every method on every reward."""
    captions, seeds = request.pick(CAPTIONS, CAPTIONS[:1], CAPTIONS[:1]), request.pick(2, 1, 1)
    nfe, steps = request.pick(3_000, 400, 20), request.pick(10, 10, 2)
    methods = request.pick(list(METHODS), list(METHODS), ["zeroth-order, 4", "hybrid2, 4"])
    budgets = [nfe // 8, nfe // 4, nfe // 2, nfe]
    cells: dict[tuple[str, str], Cell] = {}
    for reward in request.pick(REWARDS, REWARDS[:1], REWARDS[:1]):
        if not built_in.is_installed(reward):
            print(f"reward '{reward}' is not installed: left out", flush=True)
            continue
        score = make_reward(reward)
        for name in methods:
            if name == "backprop" and not score.differentiable:
                continue
            key: dict[str, Any] = dict(reward=reward, how=METHODS[name], captions=captions, seeds=seeds, nfe=nfe,
                                       steps=steps, model=built_in.version())  # fmt: skip
            cells[reward, name] = Cell(
                key, partial(run_method, score if name == "backprop" else hide_gradient(score), **key)
            )
    results: dict[str, dict[str, Any]] = {}
    for (reward, name), runs in request.cells(cells).items():
        results.setdefault(reward, {})[name] = summary(runs, budgets)
    settings = {
        "captions": list(captions), "seeds": f"100 to {99 + seeds}", "nfe": nfe, "budgets": budgets,
        "stickers": {**built_in.CALL, "num_inference_steps": steps},
    }  # fmt: skip
    return Outcome(
        verdict=verdict(results),
        agreement=agreement(results),
        settings=settings,
        results=results,
        table=table(results),
        figure=draw(results),
    )


def hide_gradient(reward: Reward) -> Reward:
    """A reward without its gradient."""
    return FunctionReward(lambda images, prompt: reward(images, prompt), differentiable=False, name=reward.name)


def run_method(
    score: Reward, *, how: str, captions: Sequence[str], seeds: int, nfe: int, steps: int, **rest: Any
) -> list[dict[str, Any]]:
    """The runs of a method, in one batch, whose rows do not know of each other: plain numbers for each."""
    chosen: dict[str, Any] = {**built_in.CALL, "num_inference_steps": steps}
    solution = align(
        "stickers",
        list(captions),
        score,
        method=f"{how},guard=none" if how.startswith("dno") else how,  # as the paper has it: no tests
        nfe=nfe,
        batch=seeds,
        seed=100,
        watch=(),
        progress=False,
        **chosen,
    )
    spent = [record["nfe"] for record in solution.history]
    calls = [one["forward"] + 2 * one["backward"] + one["recomputed"] for one in spent]
    nouns = [caption.removeprefix("a ") for caption in captions for _ in range(seeds)]
    fits, fitted = (judge_nouns(sample, nouns) for sample in (solution.sample, solution.initial.sample))
    return [
        {
            "calls": calls,
            "reward": [record["reward"][row] for record in solution.history],
            "probability": solution.probability[row],
            "strict": solution.strict_probability[row],
            "fits": fits[row] if fits else None,
            "fitted": fitted[row] if fitted else None,
            "seconds": solution.seconds / len(nouns),
        }
        for row in range(len(nouns))
    ]


def measure_gain(run: dict[str, Any], budget: int) -> float:
    """What the best within a budget has more than the start."""
    within = [reward for calls, reward in zip(run["calls"], run["reward"], strict=True) if calls <= budget]
    return max(within, default=run["reward"][0]) - run["reward"][0]


def summary(runs: list[dict[str, Any]], budgets: list[int]) -> dict[str, Any]:
    """Means over runs, with intervals."""
    known = [run for run in runs if run["fits"] is not None]
    return {
        "gain": {str(budget): interval([measure_gain(run, budget) for run in runs]) for budget in budgets},
        "gains": [measure_gain(run, budgets[-1]) for run in runs],
        "probability": interval([run["probability"] for run in runs]),
        "strict": interval([run["strict"] for run in runs]),
        "fits": interval([run["fits"] for run in known]) if known else None,
        "fitted_before": interval([run["fitted"] for run in known]) if known else None,
        "seconds": interval([run["seconds"] for run in runs]),
    }


def final_gains(results: dict[str, Any], reward: str) -> dict[str, float]:
    """What each method gained on a reward at the full budget, best first."""
    ends = {name: list(found["gain"].values())[-1]["mean"] for name, found in results[reward].items()}
    return dict(sorted(ends.items(), key=lambda item: -item[1]))


def lead(methods: dict[str, Any], one: str, other: str) -> dict[str, float]:
    """By how much one method gained more than another, run by run."""
    return interval([a - b for a, b in zip(methods[one]["gains"], methods[other]["gains"], strict=True)])


def compare_estimators(results: dict[str, Any], reward: str) -> tuple[str, str, dict[str, float]] | None:
    """Hybrid-2 and the best of the other estimators, each at its better setting, and by how much the first leads."""
    kinds: dict[str, str] = {}
    for name in final_gains(results, reward):
        kinds.setdefault(name.split(",")[0], name)
    own, rival = kinds.get("hybrid2"), next((kinds[k] for k in kinds if k in ESTIMATORS and k != "hybrid2"), None)
    return (own, rival, lead(results[reward], own, rival)) if own and rival else None


def verdict(results: dict[str, Any]) -> str:
    """Whether Hybrid-2 leads the estimators, by how much, and who leads of all that use no gradient of the reward."""
    sentences = []
    for reward, methods in results.items():
        order = [name for name in final_gains(results, reward) if name != "backprop"]
        words = [f"{name} gains {format_mean(list(methods[name]['gain'].values())[-1], 3)}" for name in order[:1]]
        found = compare_estimators(results, reward)
        if found:
            own, rival, ahead = found
            if own != order[0]:
                words.append(f"{format_mean(lead(methods, order[0], own), 3)} more than {own}")
            words.append(f"{own} gains {format_mean(ahead, 3)} more than {rival}")
        sentences.append(f"{reward}: {', '.join(words)}")
    leads = leads_of_hybrid2(results)
    led = sum(one["mean"] > 0 for one in leads)
    surely = sum(one["mean"] > one["half"] for one in leads)
    return (
        f"Hybrid-2 leads the three estimators on {led} of {len(results)} rewards, significantly on {surely}; "
        f"{'; '.join(sentences)}"
    )


def leads_of_hybrid2(results: dict[str, Any]) -> list[dict[str, float]]:
    """By how much Hybrid-2 gained more than the best of the other estimators, reward by reward."""
    return [found[2] for reward in results if (found := compare_estimators(results, reward))]


def agreement(results: dict[str, Any]) -> Agreement:
    """Whether Hybrid-2 leads everywhere, and not by chance."""
    leads = leads_of_hybrid2(results)
    surely = [one["mean"] > one["half"] for one in leads]
    if surely and all(surely):
        return "agrees"
    return "agrees in part" if any(one["mean"] > 0 for one in leads) else "contradicts"


def table(results: dict[str, Any]) -> list[list[str]]:
    """Gains at every budget, and what became of noise and noun."""
    budgets = list(next(iter(next(iter(results.values())).values()))["gain"])
    lines = [["reward", "method", *(f"gained in {n} calls" for n in budgets), "P(z)", "strict P(z)", "noun right, %"]]
    for reward, methods in results.items():
        for name in final_gains(results, reward):
            found = methods[name]
            right = format_mean(found["fits"], 0, 100) if found["fits"] else ""
            lines.append([
                reward, name, *(format_mean(gain, 3) for gain in found["gain"].values()),
                f"{found['probability']['mean']:.2g}", f"{found['strict']['mean']:.2g}", right,
            ])  # fmt: skip
    return lines


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """Gain against denoiser calls, one panel per reward."""
    figure = Figure(figsize=(4.6 * len(results) + 2.2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (reward, methods) in zip(panels, results.items(), strict=True):
        for name, found in methods.items():
            number = list(METHODS).index(name)
            calls = [int(budget) * (1 + 0.01 * number) for budget in found["gain"]]
            means, halves = ([gain[part] for gain in found["gain"].values()] for part in ("mean", "half"))
            axis.errorbar(
                calls, means, halves, linestyle=("-", "--", ":")[number % 3], marker="ovs^Dxp+"[number % 8],
                color=f"C{number % 10}", capsize=2, linewidth=1, elinewidth=0.6, markersize=4, label=name,
            )  # fmt: skip
        axis.set(xscale="log", xlabel="denoiser calls (a backward counts 2)", ylabel=f"{reward} gained", title=reward)
        budgets = [int(budget) for budget in next(iter(methods.values()))["gain"]]
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = panels[-1].get_legend_handles_labels()
    if len(panels) > 1:
        handles, labels = max((axis.get_legend_handles_labels() for axis in panels), key=lambda both: len(both[0]))
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


if __name__ == "__main__":
    main("black_box", CLAIM, conduct)
