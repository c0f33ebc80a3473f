"""The built-in text-to-image model: emoji stickers of 64 x 64 pixels on a colored background.

`path()` is a plain diffusers folder, a `StableDiffusionPipeline` in float32, trained by this project on images it
renders itself; see its model card `README.md`. A caption names a noun and, optionally, the background: "a duck",
"a duck on a black background".

Example:
    >>> from noiseward import stickers
    >>> "duck" in stickers.nouns() and "black" in stickers.colors()
    True
    >>> (stickers.path() / "model_index.json").exists()
    True
"""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal
from unicodedata import category

from noiseward.errors import NoisewardWarning

__all__ = ["check_prompt", "colors", "find_unknown", "nouns", "path", "words"]

GRAMMAR = ("a", "an", "on", "background")
SHOWN = 8  # unknown words that are named
NEAR = 3  # known words that are close to one

_HERE = Path(__file__).resolve().parent


def path(part: Literal["model", "clip", "judge", "tiny"] = "model") -> Path:
    """A folder: the pipeline, its tiny decoder, or one of two CLIP models trained on other images, independently.

    Arguments:
        part: `model`, for `StableDiffusionPipeline.from_pretrained(path(), local_files_only=True)`; `tiny`, the
            `AutoencoderTiny` of its latents; `clip`, for the reward of that name; `judge`, which scores and is never
            optimized. Both are for `CLIPModel.from_pretrained`.

    Example:
        >>> path().name, path("judge").name
        ('model', 'judge')
    """
    return _HERE / part


@cache
def words() -> Mapping[str, tuple[str, ...]]:
    """The words this version was trained on, `nouns` and `colors`.

    Example:
        >>> sorted(words())
        ['colors', 'nouns']
    """
    known = json.loads((_HERE / "words.json").read_text(encoding="utf-8"))
    return {kind: tuple(known[kind]) for kind in ("nouns", "colors")}


def check_prompt(prompt: str) -> None:
    """Warn of words and emoji that mean nothing to the model, each once, naming the nearest it knows.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     check_prompt("a duck on a red background")
        ...     check_prompt("two ducks, two ducks")
        >>> print(*(warning.message for warning in caught))
        stickers does not know 'two', 'ducks'; did you mean 'duck'? 'noiseward models stickers' lists what it knows
    """
    found = find_unknown(prompt)
    if not found:
        return
    unknown, near = list(found), dict.fromkeys(one for close in found.values() for one in close[:1])
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    hint = f"did you mean {' or '.join(map(repr, list(near)[:SHOWN]))}? " if near else ""
    text = f"stickers does not know {', '.join(map(repr, unknown[:SHOWN]))}{more}; {hint}"
    warnings.warn(f"{text}'noiseward models stickers' lists what it knows", NoisewardWarning, stacklevel=2)


def find_unknown(prompt: str) -> dict[str, tuple[str, ...]]:
    """Words and emoji of a prompt that mean nothing to the model, each with up to three that it knows and are close.

    Example:
        >>> find_unknown("a dukc on a gray background")
        {'dukc': ('duck',)}
    """
    known = [*nouns(), *colors()]
    parts = re.findall(r"[\w'-]+|[^\w\s]", prompt.lower())
    words = dict.fromkeys(part for part in parts if len(part) > 1 or part.isalnum() or category(part) == "So")
    return {word: _find_close(word, known) for word in words if word not in (*known, *GRAMMAR)}


def _find_close(word: str, known: Sequence[str]) -> tuple[str, ...]:
    """Known words that a word may be a slip of: 'and' is none of 'panda'."""
    alike = [one for one in known if abs(len(one) - len(word)) <= max(1, len(word) // 3)]
    return tuple(difflib.get_close_matches(word, alike, n=NEAR, cutoff=0.7))


def nouns() -> tuple[str, ...]:
    """The nouns this version was trained to draw.

    Example:
        >>> "rabbit" in nouns()
        True
    """
    return words()["nouns"]


def colors() -> tuple[str, ...]:
    """The background colors a caption can name.

    Example:
        >>> len(colors())
        12
    """
    return words()["colors"]
