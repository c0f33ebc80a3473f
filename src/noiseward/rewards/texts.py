"""Prompts that are longer than a reward reads: one line for each, with the words that it never sees."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from noiseward.errors import NoisewardWarning

__all__ = ["warn_if_cut"]

_SHOWN = 200  # characters of what is lost


def warn_if_cut(reward: str, tokenizer: Any, texts: Sequence[str], length: int) -> None:
    """Warn of texts that are cut.

    Arguments:
        reward: what it is called, for messages.
        tokenizer: its tokenizer.
        texts: what it is given.
        length: how many tokens it reads, with those that mark beginning and end.
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
