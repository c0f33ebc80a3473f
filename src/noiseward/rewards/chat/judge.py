r"""A chat model as a reward: it looks at an image, its prompt and a rubric, and scores.

Two ways to ask. A *score* from 0 to 10 with a reason, as JSON, which any chat model can give; the reward is a tenth of
it. Or *yes* or no: the reward is the probability of the word, from the logits of the first token,

.. math:: r(x, c) = \frac{p(\text{yes})}{p(\text{yes}) + p(\text{no})},

which changes where a score would stay at 7 (VQAScore's idea). It needs a server that returns log-probabilities. Several
questions with weights are added up, as VisionReward does.

Each image is a request of its own, so the order of images cannot be mixed up, and is asked about once: answers are kept
by the digest of the image, the prompt and the rubric. An image that the model refuses to judge, or gives no usable
answer for when asked twice, scores 0.

The images leave this process, and the machine if the server is elsewhere.

References:
    Evaluating Text-to-Visual Generation with Image-to-Text Generation
    https://arxiv.org/abs/2404.01291
    VisionReward: Fine-Grained Multi-Dimensional Human Preference Learning for Image and Video Generation
    https://arxiv.org/abs/2412.21059
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardWarning, RewardError, choices, shorten
from noiseward.rewards.chat.answers import (
    RUBRIC,
    SCORE,
    compute_share,
    fill,
    read_questions,
    read_rubric,
    read_score,
)
from noiseward.rewards.chat.cache import AnswerCache, default_folder
from noiseward.rewards.chat.client import ChatClient, Reply
from noiseward.rewards.chat.judge_image import JudgeImage, prepare_images
from noiseward.rewards.chat.spending import Spending
from noiseward.rewards.journal import Journal
from noiseward.rewards.remote import map_parallel
from noiseward.rewards.reward import Reward

__all__ = ["ChatJudge", "Questions", "chat"]

TRIES = 2  # of a question whose answer cannot be used
QUESTION = "Does this image show what its prompt asks for?"


@final
class Questions:
    """Asks a chat model, or its cache, and reads the answers.

    Arguments:
        client: of the model.
        cache: of its answers.
        workers: concurrent requests.
        journal: what was answered.
    """

    def __init__(self, client: ChatClient, cache: AnswerCache, *, workers: int, journal: Journal) -> None:
        if workers < 1:
            raise ArgumentError(f"workers must be >= 1, got {workers}")
        self.client, self.cache, self.workers, self.journal = client, cache, workers, journal
        self._is_usable = False  # whether any answer was

    def ask(
        self,
        questions: Sequence[tuple[str, Sequence[JudgeImage]]],
        read: Callable[[Reply], tuple[float, str] | None],
        schema: Mapping[str, Any] | None,
    ) -> list[dict[str, Any]]:
        """The answers to questions about images, in their order: a score and a reason each.

        Arguments:
            questions: a text and its images each.
            read: the score and the reason of a reply; None where it has none.
            schema: of the answers; None where logits are asked for.

        Raises:
            RewardError: no answer can be used.
            SpendingLimit: a limit was reached; what was answered is kept.
        """
        with self.client.connect() if questions else contextlib.nullcontext():
            answers = map_parallel(lambda each: self._ask(*each, read, schema), questions, workers=self.workers)
        failed = [answer for answer in answers if "failed" in answer]
        self._is_usable |= len(failed) < len(answers)
        if failed and not self._is_usable:
            advice = "answer=score needs no log-probabilities" if schema is None else "is it a vision-language model?"
            raise RewardError(
                f"model '{self.client.model}' gave no usable answer for any of {len(answers)} images, got "
                f"'{shorten(failed[0]['failed'], 120)}'; {advice}"
            )
        if failed:
            warnings.warn(
                f"{len(failed)} of {len(answers)} images got no usable answer of model '{self.client.model}' and score "
                f"lowest, got '{shorten(failed[0]['failed'], 120)}'",
                NoisewardWarning,
                stacklevel=2,
            )
        return answers

    def _ask(
        self,
        question: str,
        images: Sequence[JudgeImage],
        read: Callable[[Reply], tuple[float, str] | None],
        schema: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        kind = "logits" if schema is None else "json"
        sent = [f"{image.digest}-{image.side}" for image in images]
        key = {"model": self.client.model, "server": self.client.base_url, "kind": kind, "images": sent}
        key = {**key, "question": question}
        if (known := self.cache.get(key)) is not None:
            return {**known, "tokens": [0, 0], "cached": True}
        spent, reply = [0, 0], Reply("")
        for _ in range(TRIES):
            reply = self.client.ask(question, [image.url() for image in images], schema=schema)
            spent = [one + more for one, more in zip(spent, reply.tokens, strict=True)]
            found = {"score": 0.0, "reason": "", "refused": reply.refusal} if reply.refusal else None
            if found is None and (result := read(reply)) is not None:
                found = {"score": result[0], "reason": shorten(result[1], 500)}
            if found is not None:
                self.cache.set(key, found)
                return {**found, "tokens": spent, "cached": False}
        return {"score": 0.0, "reason": "", "failed": shorten(reply.text, 200), "tokens": spent, "cached": False}


@final
class ChatJudge(Reward):
    """A score by a chat model, from 0 to 1, or from -1 where a question counts against an image. A black box.

    Arguments:
        questions: asks the model.
        rubric: what a good image is; for yes and no, a question, or lines of a weight and a question each.
        answer: `score` or `yes`.
        side: the longest side of the images that are sent; 0 for them as they are.
        name: in tables and logs.
    """

    differentiable = False

    def __init__(self, questions: Questions, *, rubric: str, answer: str, side: int = 0, name: str = "chat") -> None:
        self.name, self.questions, self.rubric, self.answer, self.side = name, questions, rubric, answer, side
        self.journal, self.spending = questions.journal, questions.client.spending
        self._asked = read_questions(rubric) if answer == "yes" else [(1.0, rubric)]
        self._known: dict[tuple[str, str | None], float] = {}

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = prepare_images(sample, self.side)
        texts = [None] * len(images) if prompt is None else list(prompt)
        rows = [(image.digest, text) for image, text in zip(images, texts, strict=True)]
        new = {key: image for key, image in zip(rows, images, strict=True) if key not in self._known}
        template, schema, read = ("yes", None, _read_yes) if self.answer == "yes" else ("score", SCORE, _read_text)
        asked = [
            (fill(template, rubric=rubric, prompt=key[1]), [image])
            for key, image in new.items()
            for _, rubric in self._asked
        ]
        answers, count = self.questions.ask(asked, read, schema), len(self._asked)
        for number, (key, text) in enumerate(new):
            answer = self._add_up(answers[number * count : (number + 1) * count])
            if "failed" not in answer:
                self._known[(key, text)] = answer["score"]
            self.journal.add({"reward": self.name, "image": key, "prompt": text, **answer})
        return torch.tensor([self._known.get(key, 0.0) for key in rows], device=sample.device)

    def _add_up(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One answer from those to all questions about an image."""
        if len(answers) == 1:
            return dict(answers[0])
        rows = list(zip(self._asked, answers, strict=True))
        order = sorted(rows, key=lambda row: -abs(row[0][0]))
        said = "; ".join(f"{question} {answer['score']:.2f}" for (_, question), answer in order)
        bad = {name: one[name] for one in answers for name in ("failed", "refused") if one.get(name)}
        tokens = [sum(one["tokens"][k] for one in answers) for k in (0, 1)]
        score = sum(weight * answer["score"] for (weight, _), answer in rows)
        cached = all(one["cached"] for one in answers)
        return {"score": score, "reason": shorten(said, 500), "tokens": tokens, "cached": cached, **bad}


def _read_yes(reply: Reply) -> tuple[float, str] | None:
    found = compute_share(reply.first, "yes", "no")
    return None if found is None else (found, "")


def _read_text(reply: Reply) -> tuple[float, str] | None:
    return read_score(reply.text)


def make_questions(
    name: str, model: str, *, base_url: str, key_env: str, timeout: float, retries: int, workers: int, cache: str,
    limits: Mapping[str, Any],
) -> Questions:  # fmt: skip
    """What asks a model, from the arguments of a reward on the command line."""
    if not model:
        raise ArgumentError(
            f"reward '{name}' needs a model, as in {name}:model=gpt-5-mini, or with a server of your own, "
            f"{name}:model=qwen3-vl,base_url=http://127.0.0.1:8000/v1"
        )
    spending = Spending(name, **limits)
    client = ChatClient(model, base_url=base_url, key_env=key_env, timeout=timeout, retries=retries, spending=spending)
    folder = None if cache == "none" else Path(cache).expanduser() if cache else default_folder()
    return Questions(client, AnswerCache(folder), workers=workers, journal=Journal(spending.price))


def chat(
    model: str = "", *, base_url: str = "", rubric: str = "", answer: str = "score", workers: int = 8, side: int = 0,
    timeout: float = 60.0, retries: int = 4, max_calls: int = 0, max_cost: float = 0.0, price_in: float = 0.0,
    price_out: float = 0.0, cache: str = "", key_env: str = "",
) -> ChatJudge:  # fmt: skip
    """A score by a vision-language model behind an OpenAI-compatible server.

    Arguments:
        model: as the server calls it.
        base_url: of the server, up to `/v1`; default: OpenAI's.
        rubric: what a good image is, as text or as the path of a text file; with `answer=yes`, a question, or lines of
            a weight and a question each.
        answer: `score`, 0 to 10 with a reason; `yes`, the probability of Yes, where the server tells it.
        workers: concurrent requests.
        side: the longest side of the images that are sent, in pixels; default: as they are.
        timeout: seconds for a request.
        retries: of a request that fails.
        max_calls: the most requests; the run then ends with the best so far.
        max_cost: the most that may be spent, likewise, by the prices of a million tokens read and written.
        price_in, price_out: these prices.
        cache: a folder for answers, or none; default: in the user's cache folder.
        key_env: the environment variable that holds the key; default: OPENAI_API_KEY for OpenAI, else
            NOISEWARD_CHAT_KEY, if it is set.
    """
    if answer not in ("score", "yes"):
        raise ArgumentError(f"answer must be score or yes, got '{answer}'; {choices(answer, ('score', 'yes'))}")
    limits = {"max_calls": max_calls, "max_cost": max_cost, "price_in": price_in, "price_out": price_out}
    questions = make_questions(
        "chat", model, base_url=base_url, key_env=key_env, timeout=timeout, retries=retries, workers=workers,
        cache=cache, limits=limits,
    )  # fmt: skip
    text = read_rubric(rubric) or (QUESTION if answer == "yes" else RUBRIC)
    return ChatJudge(questions, rubric=text, answer=answer, side=side)
