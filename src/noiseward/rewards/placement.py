"""Where a reward is computed, and in how much memory.

A large reward model does not have to be on the device of the sampler: images are sent to the reward's own, and its
gradient comes back the same way. A 1 B model on a CPU takes seconds per image, which is little next to many sampler
steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError, choices
from noiseward.rewards.reward import Reward
from noiseward.samplers.blocks import recompute_model

__all__ = ["Placed"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@final
class Placed(Reward):
    """A reward with a device and a precision of its own.

    Arguments:
        reward: it follows its images: its models are on their device.
        device: where it is computed; default: where the images are.
        dtype: of its model's weights, `float32` or `bfloat16`, for rewards that can be in either.
        recompute: recompute its models' activations block by block instead of keeping them.

    Example:
        >>> from noiseward.rewards.reward import FunctionReward
        >>> bright = FunctionReward(lambda images: images.mean((1, 2, 3)), name="bright")
        >>> Placed(bright, device="cpu")(torch.ones(2, 3, 8, 8), None)
        tensor([1., 1.])
    """

    def __init__(
        self, reward: Reward, *, device: str | None = None, dtype: str | None = None, recompute: bool = False
    ) -> None:
        self.reward, self.name, self.differentiable = reward, reward.name, reward.differentiable
        self.statistic, self.recompute = reward.statistic, recompute
        try:
            self.device = None if device is None else torch.empty(0, device=device).device
        except (RuntimeError, AssertionError):
            raise ArgumentError(
                f"device of reward '{reward.name}' must be one that torch can use, as cpu or cuda:1, got '{device}'"
            ) from None
        if dtype is not None:
            if dtype not in DTYPES:
                raise ArgumentError(f"unknown dtype '{dtype}' of reward '{reward.name}'; {choices(dtype, DTYPES)}")
            parts = [each for each in (reward, *vars(reward).values()) if isinstance(each, Reward)]
            encoders: list[Any] = [each for each in parts if hasattr(each, "dtype")]
            if not encoders:
                raise ArgumentError(f"reward '{reward.name}' is computed in float32 alone; leave dtype out")
            for each in encoders:
                each.dtype = DTYPES[dtype]

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        moved = sample if self.device is None else sample.to(self.device)
        with contextlib.ExitStack() as stack:
            if self.recompute:
                for module in _find_modules(self.reward):
                    stack.enter_context(recompute_model(module))
            scores = self.reward(moved, prompt)
        return scores.to(sample.device) if isinstance(scores, Tensor) else scores


def _find_modules(owner: Any) -> Iterator[Module]:
    """The models that a reward holds, also within a reward or an encoder that it holds; none within another."""
    for value in vars(owner).values():
        if isinstance(value, Module):
            yield from _find_outermost(value)
        elif isinstance(value, Reward):
            yield from _find_modules(value)


def _find_outermost(module: Module) -> Iterator[Module]:
    if getattr(module, "supports_gradient_checkpointing", False):
        yield module  # its blocks are also those of the models in it, and are to be recomputed once
        return
    for part in module.children():
        yield from _find_outermost(part)
