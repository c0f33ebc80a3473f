"""A chat model as a reward, written down by a form: `chat:model=...,base_url=...,rubric="..."`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from noiseward.errors import ArgumentError
from noiseward.options.option import Options, option
from noiseward.options.parts import join_part
from noiseward.studio.forms import label_of

__all__ = ["JudgeOptions", "write_judge"]


class JudgeOptions(Options):
    """What the form of a chat judge asks for; its names are those of the reward's arguments."""

    model: str = option(
        ..., min_length=1, help="A model that sees images, as its server calls it: gpt-5-mini, qwen2.5vl, ..."
    )
    base_url: str | None = option(
        None, help="Up to /v1, as in http://127.0.0.1:11434/v1 for Ollama. Empty: OpenAI, whose key is OPENAI_API_KEY."
    )
    rubric: str | None = option(
        None,
        help="In your own words, as in: a friendly animal, and nothing else. Empty: what fits the prompt, well made.",
    )
    judge: Literal["chat", "chat-pair"] = option(
        "chat",
        help="chat gives each image a score; chat-pair compares two images, steadier and at twice the questions.",
    )
    max_calls: int | None = option(None, ge=1, help="The run ends with its best after so many. Empty: no limit.")


def write_judge(values: Mapping[str, Any]) -> str:
    """The text of a judge, as `--reward` takes it.

    Arguments:
        values: the options that are given.

    Raises:
        ArgumentError: one is missing, or cannot be written.

    Example:
        >>> write_judge({"model": "qwen2.5vl", "base_url": "http://127.0.0.1:11434/v1", "rubric": "round, and red"})
        'chat:model=qwen2.5vl,base_url=http://127.0.0.1:11434/v1,rubric="round, and red"'
        >>> write_judge({"model": "gpt-5-mini", "judge": "chat-pair", "max_calls": "50"})
        'chat-pair:model=gpt-5-mini,max_calls=50'
    """
    given = JudgeOptions.read(dict(values), spell=label_of)
    found = {name: value for name, value in given.values().items() if name != "judge" and value is not None}
    for name in ("model", "base_url"):
        text = str(found.get(name, ""))
        if any(mark in text for mark in ',"\n'):
            raise ArgumentError(f"{label_of(name)} must have no commas, quotes or line breaks, got '{text[:60]}'")
    if not str(found.get("base_url", "https://")).startswith(("http://", "https://")):
        raise ArgumentError(
            f"{label_of('base_url')} must begin with http:// or https://, got '{found['base_url'][:60]}'"
        )
    if "rubric" in found:
        text = " ".join(str(found["rubric"]).replace('"', "'").split())
        found["rubric"] = f'"{text}"' if "," in text else text
    return join_part(given.judge, found)
