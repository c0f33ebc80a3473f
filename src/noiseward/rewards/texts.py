"""Prompts as rewards read them: there must be one, and a warning says which words of a long one are not read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from noiseward.errors import NoisewardWarning, RewardError

__all__ = ["require_prompt", "warn_if_cut"]

_SHOWN = 200  # characters of the words that are cut


def require_prompt(reward: str, prompt: Sequence[str] | None) -> Sequence[str]:
    """The prompts of a batch.

    Raises:
        RewardError: there are none.
    """
    if prompt is None:
        raise RewardError(f"reward '{reward}' compares images with prompts: the model has none; give a prompt")
    return prompt


def warn_if_cut(reward: str, tokenizer: Any, texts: Sequence[str], length: int) -> None:
    """Warn of texts that are cut.

    Arguments:
        reward: its name, for messages.
        tokenizer: its tokenizer.
        texts: the prompts.
        length: the number of tokens it reads, with those that mark beginning and end.
    """
    marks = tokenizer.num_special_tokens_to_add()
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(ids) > length - marks:
            lost = tokenizer.decode(ids[length - marks :], skip_special_tokens=True).strip()
            lost = lost if len(lost) <= _SHOWN else f"{lost[: _SHOWN // 2]} ... {lost[-_SHOWN // 2 :]}"
            warnings.warn(
                f"reward '{reward}' reads the first {length} tokens of a prompt and does not see '{lost}'; shorten it",
                NoisewardWarning,
                stacklevel=3,
            )
