"""Reading what chat models answer: JSON with a reason, or the probability of a word."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from noiseward.errors import ArgumentError

__all__ = [
    "HIGHEST", "PAIR", "RUBRIC", "SCORE", "compute_share", "fill", "read_better", "read_questions", "read_rubric",
    "read_score",
]  # fmt: skip

HIGHEST = 10  # score that the template asks for
RUBRIC = (
    "How well the image shows what its prompt asks for: every object, its color, number and place, and nothing that "
    "contradicts it. Then how well it is made: clear shapes, no artifacts."
)


def _schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    every = {"reason": {"type": "string"}, **properties}
    return {"type": "object", "properties": every, "required": list(every), "additionalProperties": False}


SCORE = _schema(score={"type": "number"})
PAIR = _schema(better={"type": "string", "enum": ["A", "B", "tie"]})


def read_rubric(rubric: str) -> str:
    """A rubric: the text itself, or that of a file.

    Raises:
        ArgumentError: the file cannot be read.
    """
    if not rubric.endswith((".txt", ".md")):
        return rubric.strip()
    try:
        return Path(rubric).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"rubric must be text or a text file, got '{rubric}' ({error})") from None


def read_questions(rubric: str) -> list[tuple[float, str]]:
    """The questions of a rubric, each with its weight: lines of a number and a question, or the whole as one question.

    The weights are divided by the sum of their sizes.

    Example:
        >>> read_questions("3 Is it red?\\n-1 Is it blurred?"), read_questions("Is it red?")
        ([(0.75, 'Is it red?'), (-0.25, 'Is it blurred?')], [(1.0, 'Is it red?')])
    """
    lines = [line.strip() for line in rubric.splitlines() if line.strip()]
    found = [re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\s+(.+)", line) for line in lines]
    pairs = [(float(match[1]), match[2]) for match in found if match]
    total = sum(abs(weight) for weight, _ in pairs)
    if len(pairs) < len(lines) or not total:
        return [(1.0, rubric)]
    return [(weight / total, question) for weight, question in pairs]


def fill(template: str, *, rubric: str, prompt: str | None) -> str:
    """A question from one of the templates next to this file.

    Example:
        >>> fill("which", rubric="Redder is better.", prompt="a duck").splitlines()[1]
        'a duck'
    """
    text = files("noiseward.rewards.chat").joinpath("templates", f"{template}.txt").read_text(encoding="utf-8")
    parts = {"{rubric}": rubric, "{prompt}": prompt if prompt else "(none)"}
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], text)  # in one pass: both are data


def read_score(text: str) -> tuple[float, str] | None:
    """The score of an answer, 0 to 1, and its reason; None where there is none.

    Example:
        >>> read_score('```json\\n{"reason": "A duck.", "score": 7}\\n```'), read_score('{"score": 11}')
        ((0.7, 'A duck.'), None)
    """
    content = _read_json(text)
    score = content.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= HIGHEST:
        return None
    return score / HIGHEST, str(content.get("reason", ""))


def read_better(text: str) -> tuple[float, str] | None:
    """How likely A is better by an answer (1, 0, or 0.5 for a tie), and the reason; None where there is none."""
    content = _read_json(text)
    better = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(str(content.get("better", "")).strip().lower())
    return None if better is None else (better, str(content.get("reason", "")))


def compute_share(first: Mapping[str, float], yes: str, no: str) -> float | None:
    """How likely one word is, of two; None where neither was a candidate.

    Example:
        >>> round(compute_share({"yes": 0.6, "no": 0.2, "well": 0.1}, "yes", "no"), 6)
        0.75
    """
    one, other = first.get(yes, 0.0), first.get(no, 0.0)
    return one / (one + other) if one + other > 0 and math.isfinite(one + other) else None


def _read_json(text: str) -> dict[str, Any]:
    """The last JSON object in a text: models like to wrap it, or to think before it."""
    decoder, found, at = json.JSONDecoder(), {}, text.find("{")
    while at >= 0:
        try:
            content, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found = content if isinstance(content, dict) else found
        at = text.find("{", end)
    return found
