"""Requests to an OpenAI-compatible server: one question about one or more images, one answer.

The `openai` package sends them, and retries connections that fail, 408, 409, 429 and 5xx with growing pauses, as long
as the server asks for where it does. What it does not know is added here: servers that refuse an optional argument are
asked again without it, and a key is never shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from noiseward.errors import ArgumentError, RewardError, describe_error, shorten
from noiseward.rewards.chat.spending import Spending
from noiseward.rewards.extras import import_extra
from noiseward.rewards.remote import is_loopback

__all__ = ["KEYS", "ChatClient", "Reply", "read_key"]

KEYS = ("OPENAI_API_KEY", "NOISEWARD_CHAT_KEY")  # for OpenAI itself, and for any other server
OPTIONAL = ("response_format", "temperature", "seed", "max_completion_tokens")
REFUSED = re.compile(r"content.?(policy|filter|management)|moderation|safety", re.IGNORECASE)
CANDIDATES = 20  # tokens whose probability is asked for, the most that servers give


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: what the model said.
        refusal: why it would not answer; empty if it did.
        first: the probability of each candidate for the first token, where that was asked for.
        tokens: read and written.
    """

    text: str
    refusal: str = ""
    first: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens: tuple[int, int] = (0, 0)


def read_key(base_url: str, key_env: str) -> str:
    """The key for a server, from the environment: a key never stands in a run directory.

    Arguments:
        base_url: of the server; empty for OpenAI's.
        key_env: the variable it is in; empty for the usual one. OpenAI's key goes to OpenAI alone.

    Raises:
        ArgumentError: there is none.
    """
    name = key_env or KEYS[1 if base_url else 0]
    key = os.environ.get(name, "")
    if not key and (key_env or not base_url):
        raise ArgumentError(f"expected a key in the environment variable {name}, got none; set it (export {name}=...)")
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ArgumentError(f"the key in {name} must be printable ASCII without spaces; set it again")
    return key


@final
class ChatClient:
    """A chat model behind an address.

    Arguments:
        model: as the server calls it.
        base_url: of the server, up to `/v1`; empty for OpenAI's.
        key_env: see `read_key`.
        timeout: seconds for a request.
        retries: of a request.
        spending: counts requests and stops them at its limits.

    Raises:
        ArgumentError: a bad address, or no key.
    """

    def __init__(
        self, model: str, *, base_url: str, key_env: str, timeout: float, retries: int, spending: Spending
    ) -> None:
        host = _host(base_url) if base_url else ""
        if not 0 < timeout < math.inf or retries < 0:
            raise ArgumentError(f"timeout must be positive seconds and retries >= 0, got {timeout} and {retries}")
        openai = import_extra("openai", extra="chat", name=f"reward '{spending.name}'")
        self.model, self.base_url, self.spending = model, base_url, spending
        self._key, self._errors, self._dropped = read_key(base_url, key_env), openai, set[str]()
        self._is_near = is_loopback(host)
        self._session: Any = None
        self._how: dict[str, Any] = {"base_url": base_url or None, "timeout": timeout, "max_retries": retries}

    @contextlib.contextmanager
    def connect(self) -> Iterator[None]:
        """Keep connections for the requests in the body of a `with`."""
        openai = self._errors
        near = {"http_client": openai.DefaultHttpxClient(trust_env=False)} if self._is_near else {}  # no proxy
        with openai.OpenAI(api_key=self._key or "none", **self._how, **near) as self._session:
            yield

    def ask(self, question: str, images: Sequence[str], *, schema: Mapping[str, Any] | None = None) -> Reply:
        """Ask about images, while connected.

        Arguments:
            question: text.
            images: as data URLs.
            schema: the JSON Schema of the answer; None to ask for the probabilities of its first token instead.

        Raises:
            RewardError: the server cannot be reached, or does not take the request.
            SpendingLimit: it would cost more than it may.
        """
        content = [{"type": "text", "text": question}]
        content += [{"type": "image_url", "image_url": {"url": image}} for image in images]
        arguments: dict[str, Any] = {"temperature": 0, "seed": 0}
        if schema is None:
            arguments |= {"logprobs": True, "top_logprobs": CANDIDATES, "max_completion_tokens": 1}
        else:
            form = {"name": "answer", "schema": schema, "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        while True:
            given = {name: value for name, value in arguments.items() if name not in self._dropped}
            with self.spending.reserve() as count:
                try:
                    answer = self._session.chat.completions.create(
                        model=self.model, messages=[{"role": "user", "content": content}], **given
                    )
                except Exception as error:  # what the client raises, and what JSON decoders raise within it
                    dropped = self._droppable(error, given)
                    if dropped is None:
                        return self._refused(error)
                    self._dropped.add(dropped)
                    continue
                reply = _read(answer)
                reply = dataclasses.replace(reply, text=self._hide(reply.text), refusal=self._hide(reply.refusal))
                count(*reply.tokens)
                return reply

    def _droppable(self, error: Exception, given: Mapping[str, Any]) -> str | None:
        """The optional argument that a server did not take."""
        if not isinstance(error, self._errors.BadRequestError | self._errors.UnprocessableEntityError):
            return None
        said = str(error).replace("max_tokens", "max_completion_tokens")
        named = [name for name in OPTIONAL if name in given and name in said]
        is_schema = "response_format" in given and re.search(r"json|schema|grammar", said, re.IGNORECASE)
        return named[0] if named else "response_format" if is_schema else None

    def _refused(self, error: Exception) -> Reply:
        """An answer that is none: of a model that will not judge this image. Raises for any other error."""
        openai, where = self._errors, self.base_url or "OpenAI"
        said = self._hide(describe_error(error, 300))
        if isinstance(error, openai.APIStatusError):
            status = getattr(error, "status_code", 0)
            if status in (400, 403, 422) and REFUSED.search(said):
                return Reply("", refusal=said)
            raise RewardError(f"chat server {where} answered {status}: {said}") from None
        if isinstance(error, openai.APITimeoutError):
            raise RewardError(f"chat server {where} did not answer in time; increase timeout=") from None
        if isinstance(error, openai.APIConnectionError):
            cause = self._hide(describe_error(error.__cause__ or error, 200))
            raise RewardError(f"chat server {where} cannot be reached ({cause}): is it up?") from None
        if isinstance(error, openai.OpenAIError | ValueError):
            return Reply(f"(not an answer: {said})")
        raise error

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _read(answer: Any) -> Reply:
    """The answer of a server, which may be anything."""
    usage = getattr(answer, "usage", None)
    tokens = int(getattr(usage, "prompt_tokens", 0) or 0), int(getattr(usage, "completion_tokens", 0) or 0)
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1 or getattr(choices[0], "message", None) is None:
        count = len(choices) if isinstance(choices, list) else 0
        return Reply(f"({count} answers instead of one)", tokens=tokens)
    choice = choices[0]
    refusal = getattr(choice.message, "refusal", None) or ""
    if choice.finish_reason == "content_filter":
        refusal = refusal or "stopped by the server's content filter"
    first: dict[str, float] = {}
    tops = getattr(choice.logprobs, "content", None) if getattr(choice, "logprobs", None) else None
    for one in (tops[0].top_logprobs or []) if tops else []:
        word = one.token.strip(" \n\t'\"*.").lower()
        first[word] = first.get(word, 0.0) + math.exp(min(one.logprob, 0.0))
    text = choice.message.content if isinstance(choice.message.content, str) else ""
    return Reply(text, shorten(str(refusal), 300), first, tokens)


def _host(base_url: str) -> str:
    """The host of an address that may be written down."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ArgumentError(
            f"base_url must be the address of a chat server, as in http://127.0.0.1:8000/v1, got '{base_url}'"
        )
    if parts.username or parts.password or parts.query:
        raise ArgumentError(
            f"base_url must have no user, password or query, which run directories would keep; set {KEYS[1]} instead"
        )
    return host
