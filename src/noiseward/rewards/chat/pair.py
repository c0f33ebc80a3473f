r"""A chat model as a reward by comparison: each image against the best so far of its prompt.

Which of two images is better is easier to say than how good one is, and the answer is steadier. So the best so far
has a rating s, 0 for the first image, and another image's rating is

.. math:: s + p - \tfrac{1}{2},

where p is the probability that it beats the best, over both orders of the two images, since models prefer a place. An
image with p above one half becomes the best to compare with. An image that was rated keeps its rating.

Ratings are relative: they say how far a run came from its first image, and depend on which images it has seen. All rows
of one prompt are compared with one best, so their ratings compare. They are no measure across runs.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, choices
from noiseward.rewards.chat.answers import PAIR, RUBRIC, compute_share, fill, read_better, read_rubric
from noiseward.rewards.chat.client import Reply
from noiseward.rewards.chat.judge import Questions, make_questions
from noiseward.rewards.chat.judge_image import JudgeImage, digest_image, prepare_images
from noiseward.rewards.reward import Reward

__all__ = ["ChatPair", "chat_pair"]


Key = tuple[str, str | None]
"""The digest of an image, and its prompt."""


@dataclasses.dataclass(frozen=True)
class _Best:
    """The image that others of its prompt are compared with."""

    image: JudgeImage
    rating: float


@final
class ChatPair(Reward):
    """A rating by comparison with the best so far. A black box.

    Arguments:
        questions: asks the model.
        rubric: what a better image is.
        answer: `reason`, as JSON; `letter`, by the probability of A.
        side: the longest side of the images that are sent; 0 for them as they are.
        name: in tables and logs.
    """

    differentiable = False

    def __init__(
        self, questions: Questions, *, rubric: str, answer: str, side: int = 0, name: str = "chat-pair"
    ) -> None:
        self.name, self.questions, self.rubric, self.answer, self.side = name, questions, rubric, answer, side
        self.journal, self.spending = questions.journal, questions.client.spending
        self._ratings: dict[Key, float] = {}
        self._best: dict[str | None, _Best] = {}

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = prepare_images(sample, self.side)
        texts = [None] * len(images) if prompt is None else list(prompt)
        rows = [(image.digest, text) for image, text in zip(images, texts, strict=True)]
        new: dict[Key, JudgeImage] = {}
        for key, image in zip(rows, images, strict=True):
            if key[1] not in self._best:
                self._rate(key[1], image, 0.0, {"score": 0.5, "reason": "the first image", "tokens": [0, 0]})
            elif key not in self._ratings:
                new[key] = image
        answers = self._compare(new)
        for text in dict.fromkeys(text for _, text in new):
            best = self._best[text]
            order = sorted((key for key in new if key[1] == text), key=lambda key: answers[key]["score"])
            for key in order:  # the winner last
                rating = best.rating + answers[key]["score"] - 0.5
                self._rate(text, new[key], rating, {**answers[key], "against": best.image.digest})
        return torch.tensor([self._ratings[key] for key in rows], device=sample.device)

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the records of an earlier process."""
        for record in records:
            if record.get("reward") == self.name and isinstance(record.get("rating"), int | float):
                text, digest = record.get("prompt"), str(record.get("image"))
                self._ratings[digest, text] = record["rating"]
                if (image := _decode(record.get("png"))) is not None and digest_image(image) == digest:
                    self._best[text] = _Best(JudgeImage(image, digest, self.side), record["rating"])

    def _rate(self, text: str | None, image: JudgeImage, rating: float, answer: Mapping[str, Any]) -> None:
        self._ratings[image.digest, text] = rating
        record = {"reward": self.name, "image": image.digest, "prompt": text, **answer, "rating": rating}
        if text not in self._best or rating > self._best[text].rating:
            self._best[text] = _Best(image, rating)
            file = io.BytesIO()
            image.image.save(file, format="PNG")
            record["png"] = base64.b64encode(file.getvalue()).decode()
        self.journal.add(record)

    def _compare(self, new: Mapping[tuple[str, str | None], JudgeImage]) -> dict[Key, dict[str, Any]]:
        """How likely each image beats the best of its prompt, in both orders."""
        template, schema, read = ("pair", PAIR, _read_text)
        if self.answer == "letter":
            template, schema, read = "which", None, _read_letter
        asked = []
        for (_, text), image in new.items():
            question, best = fill(template, rubric=self.rubric, prompt=text), self._best[text].image
            asked += [(question, [image, best]), (question, [best, image])]
        answers, found = self.questions.ask(asked, read, schema), {}
        for number, key in enumerate(new):
            ahead, behind = answers[2 * number : 2 * number + 2]
            bad = [one for one in (ahead, behind) if "failed" in one or one.get("refused")]
            both = {"tokens": [one + other for one, other in zip(ahead["tokens"], behind["tokens"], strict=True)]}
            both |= {name: bad[0][name] for name in ("failed", "refused") if bad and name in bad[0]}
            score = 0.0 if bad else (ahead["score"] + 1 - behind["score"]) / 2
            cached = ahead["cached"] and behind["cached"]
            found[key] = {"score": score, "reason": ahead["reason"], "cached": cached, **both}
        return found


def _read_text(reply: Reply) -> tuple[float, str] | None:
    return read_better(reply.text)


def _read_letter(reply: Reply) -> tuple[float, str] | None:
    found = compute_share(reply.first, "a", "b")
    return None if found is None else (found, "")


def _decode(png: Any) -> Any:
    """An image from base64; None where it is none."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") if isinstance(png, str) else None
    except (OSError, ValueError, binascii.Error):
        return None


def chat_pair(
    model: str = "", *, base_url: str = "", rubric: str = "", answer: str = "reason", workers: int = 8, side: int = 0,
    timeout: float = 60.0, retries: int = 4, max_calls: int = 0, max_cost: float = 0.0, price_in: float = 0.0,
    price_out: float = 0.0, cache: str = "", key_env: str = "",
) -> ChatPair:  # fmt: skip
    """A rating by a vision-language model that compares each image with the best so far.

    Arguments:
        answer: `reason`, which image is better and why; `letter`, the probability of A, where the server tells it.
        model, base_url, rubric, workers, side, timeout, retries: as for `chat`.
        max_calls, max_cost, price_in, price_out, cache, key_env: as for `chat`.
    """
    if answer not in ("reason", "letter"):
        raise ArgumentError(f"answer must be reason or letter, got '{answer}'; {choices(answer, ('reason', 'letter'))}")
    limits = {"max_calls": max_calls, "max_cost": max_cost, "price_in": price_in, "price_out": price_out}
    questions = make_questions(
        "chat-pair", model, base_url=base_url, key_env=key_env, timeout=timeout, retries=retries, workers=workers,
        cache=cache, limits=limits,
    )  # fmt: skip
    return ChatPair(questions, rubric=read_rubric(rubric) or RUBRIC, answer=answer, side=side)
