"""Which learning rate should `align` take? Reward and P(z) after 30 moves of Adam, on the built-in model.

The published implementation takes 0.01 and 50 to 100 moves of a 50-step sampler. A front door that answers within two
minutes makes 30; this measures what they reach at four rates, for three rewards, over paired seeds.
"""

from __future__ import annotations

import argparse

import torch
from matplotlib.figure import Figure

from experiments.report import interval, write
from noiseward import align

RATES = (0.01, 0.02, 0.05, 0.1)
REWARDS = ("brightness", "darkness", "contrast")
CAPTIONS = ("a duck", "a rabbit", "a heart", "a star")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="two captions, 5 moves")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    captions, moves = (CAPTIONS[:2], 5) if small else (CAPTIONS, 30)
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for reward in REWARDS:
        results[reward] = {}
        for rate in RATES:
            solution = align("stickers", captions, reward, steps=moves, lr=rate, seed=100, progress=False)
            results[reward][str(rate)] = {
                "gain": interval(solution.gain.tolist()),
                "probability": interval(solution.probability),
            }
            print(reward, rate, solution.gain.tolist(), solution.probability, flush=True)
    settings = {
        "captions": captions,
        "seed": 100,
        "moves": moves,
        "num_inference_steps": 20,
        "eta": 1.0,
        "small": small,
    }
    write("learning_rate", settings=settings, results=results, verdict=verdict(results), figure=draw(results))


def verdict(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """What the lowest and the highest rate gain, and at which P(z)."""
    lowest, highest = (str(rate) for rate in (RATES[0], RATES[-1]))
    ends = ((reward, rate, by_rate[rate]) for reward, by_rate in results.items() for rate in (lowest, highest))
    return "; ".join(
        f"{reward} at lr {rate}: +{numbers['gain']['mean']:.2f}, P(z) {numbers['probability']['mean']:.2g}"
        for reward, rate, numbers in ends
    )


def draw(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Figure:
    """Gain and P(z) against the rate, one line per reward, with intervals."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axis, what in zip(figure.subplots(1, 2), ("gain", "probability"), strict=True):
        for (reward, by_rate), style in zip(results.items(), ("-", "--", ":"), strict=False):
            means = [numbers[what]["mean"] for numbers in by_rate.values()]
            halves = [numbers[what]["half"] for numbers in by_rate.values()]
            axis.errorbar(RATES, means, halves, linestyle=style, marker="o", capsize=3, label=reward)
        axis.set(
            xscale="log",
            xlabel="learning rate of Adam",
            ylabel="reward gained" if what == "gain" else "P(z) of the best noise",
        )
        axis.set_xticks(RATES, [str(rate) for rate in RATES])
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure


if __name__ == "__main__":
    main()
