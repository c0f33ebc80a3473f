"""The built-in model in experiments: which captions and seeds, and its sampler."""

from __future__ import annotations

from typing import Any

from experiments.report import model as version
from noiseward import DiffusersSampler, Objective, stickers
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import make_reward
from training.words import caption

__all__ = ["CALL", "is_installed", "objective", "pairs", "sampler", "version"]

CALL = {"num_inference_steps": 10, "guidance_scale": 3.0, "eta": 1.0}


def pairs(prompts: int, seeds: int, *, color: str | None = None, first: int = 0) -> tuple[list[str], list[int]]:
    """Captions and seeds of every row: each of `prompts` nouns, spread over all known, with each of `seeds` seeds."""
    nouns = stickers.nouns()
    chosen = [nouns[(first + number) * 7 % len(nouns)] for number in range(prompts)]
    rows = [(caption(noun, color), 1000 + seed) for noun in chosen for seed in range(seeds)]
    return [text for text, _ in rows], [seed for _, seed in rows]


def sampler(*, memory: str = "fast", **call: Any) -> DiffusersSampler:
    """The model's sampler, with 10 steps and guidance 3 by default."""
    return DiffusersSampler(load_pipeline(stickers.path()), memory=memory, **{**CALL, **call})


def objective(reward: str, prompts: list[str], **call: Any) -> Objective:
    """A named reward of the model's samples."""
    return Objective(sampler(**call), make_reward(reward), prompts)


def is_installed(reward: str) -> bool:
    """Whether what a reward needs is here."""
    if reward in ("clip", "stickers-clip"):
        return (stickers.path("clip") / "config.json").exists()
    return True
