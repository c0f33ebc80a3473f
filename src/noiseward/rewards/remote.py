"""Rewards behind HTTP: pictures and prompts out, scores in.

The protocol is one request. A client posts JSON with `Content-Type: application/json`,

    {"items": [{"id": "0", "prompt": "a duck", "image": "<PNG, base64>"}, ...]}

where `prompt` may be null, and is answered with status 200 and

    {"scores": [{"id": "0", "score": 0.25}, ...]}

one finite number per id, in any order. Any other status may carry `{"error": "a sentence"}`. Connections that fail or
break off, 429 and 5xx are tried again while there is time; anything else, and any answer that is not as above, is an
error at once. A server that wants a token gets it as `Authorization: Bearer TOKEN`, from `token=` or the environment
variable `NOISEWARD_TOKEN`. `serve.py` is a server of this protocol; twenty lines of any web framework are another.

The pictures leave this process, and the machine if the server is elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ipaddress
import json
import math
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, RewardError, shorten
from noiseward.images import to_images
from noiseward.rewards.deadline import handlers
from noiseward.rewards.reward import Reward

__all__ = ["RemoteReward", "loopback"]

T = TypeVar("T")
R = TypeVar("R")

LONGEST = 16 * 2**20  # bytes of an answer
HIGHEST = 3.4e38  # of a score: what float32 holds
AGAIN = {429, *range(500, 600)}


@final
class RemoteReward(Reward):
    """A reward that a server computes. A black box.

    Arguments:
        url: where to post to, `http://...` or `https://...`.
        name: how tables call it; default: the server's host and port.
        batch: pictures per request.
        workers: requests under way at the same time.
        timeout: seconds for a request as a whole: finding the server, sending, waiting, reading, and all retries.
        retries: how often a request is tried again while there is time.
        backoff: seconds before the first retry, twice as many before each next.
        token: what the server wants to be shown; default: the environment variable NOISEWARD_TOKEN, if it is set.

    Raises:
        RewardError: no answer after all tries, or an answer that makes no sense.

    Example:
        >>> from noiseward.rewards.parse import named
        >>> from noiseward.rewards.serve import serving
        >>> with serving(named("darkness")) as url:
        ...     RemoteReward(url)(torch.zeros(2, 3, 8, 8), None).tolist()
        [1.0, 1.0]
    """

    differentiable = False

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        batch: int = 8,
        workers: int = 4,
        timeout: float = 60.0,
        retries: int = 3,
        backoff: float = 0.5,
        token: str | None = None,
    ) -> None:
        host = _host(url)
        for what, count, least in (("batch", batch, 1), ("workers", workers, 1), ("retries", retries, 0)):
            if not (isinstance(count, int) and count >= least):
                raise ArgumentError(f"{what}={count} given: a whole number, at least {least}, wanted")
        if not 0 < timeout < math.inf or not 0 <= backoff < math.inf:
            raise ArgumentError(f"timeout={timeout}, backoff={backoff} given: positive numbers of seconds wanted")
        self.url, self.name = url, name or urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
        self.batch, self.workers, self.timeout, self.retries, self.backoff = batch, workers, timeout, retries, backoff
        self._token = os.environ.get("NOISEWARD_TOKEN", "") if token is None else token
        if not re.fullmatch(r"[\x21-\x7e]*", self._token):
            raise ArgumentError("the token of a reward server must be printable ASCII without spaces: give another")
        proxies = [urllib.request.ProxyHandler({})] if loopback(host) else []  # no proxy leads back to this machine
        self._opener = urllib.request.build_opener(*handlers(), *proxies)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        items = [
            {"id": str(row), "prompt": prompt[row] if prompt else None, "image": _png(picture)}
            for row, picture in enumerate(to_images(sample))
        ]
        batches = [items[begin : begin + self.batch] for begin in range(0, len(items), self.batch)]
        answers = together(self._scores, batches, workers=self.workers)
        return torch.tensor([score for answer in answers for score in answer], device=sample.device)

    def _scores(self, items: list[dict[str, Any]]) -> list[float]:
        """The scores of one request's items, in their order."""
        body = json.dumps({"items": items}).encode()
        end, failure, tries = time.monotonic() + self.timeout, "", 0
        for attempt in range(self.retries + 1):
            pause = self.backoff * 2 ** (attempt - 1) if attempt else 0.0
            if tries and time.monotonic() + pause >= end:
                break
            time.sleep(pause)
            tries += 1
            try:
                return self._ordered(self._post(body, end - time.monotonic()), [item["id"] for item in items])
            except urllib.error.HTTPError as error:
                with error:
                    failure = f"answered {error.code} {shorten(error.reason, 100)}{_said(error)}"
                if error.code not in AGAIN:
                    raise RewardError(f"reward server {self.url} {failure}") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", None) or error
                if isinstance(reason, TimeoutError) and time.monotonic() >= end:
                    failure = f"did not answer within {self.timeout:g} s: raise timeout= if it needs longer"
                    break
                said = shorten(str(reason), 200) or type(reason).__name__
                failure = f"cannot be reached ({said}): is it up?"
        raise RewardError(f"reward server {self.url} {failure} ({tries} {'try' if tries == 1 else 'tries'})")

    def _post(self, body: bytes, seconds: float) -> bytes:
        request = urllib.request.Request(self.url, data=body)
        request.add_header("Content-Type", "application/json")
        request.add_header("Accept", "application/json")
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")  # another server never sees it
        with self._opener.open(request, timeout=max(seconds, 1e-3)) as response:
            parts, size = [], 0
            while part := response.read1(2**16):
                parts.append(part)
                size += len(part)
                if size > LONGEST:
                    raise RewardError(f"reward server {self.url} answered with more than {LONGEST} bytes")
            if response.length:  # closed before all of it came
                raise http.client.IncompleteRead(b"".join(parts), response.length)
            return b"".join(parts)

    def _ordered(self, answer: bytes, ids: list[str]) -> list[float]:
        """The scores of an answer by id, checked."""
        try:
            scores = json.loads(answer)["scores"]
            found = {entry["id"]: entry["score"] for entry in scores}
        except (ValueError, TypeError, KeyError, RecursionError):
            shown = " ".join(answer[:60].decode(errors="replace").split())
            raise RewardError(
                f"reward server {self.url} answered nonsense, '{shown}': "
                '{"scores": [{"id": "0", "score": 0.25}, ...]} wanted'
            ) from None
        if len(scores) != len(ids) or found.keys() != set(ids):
            raise RewardError(
                f"reward server {self.url} scored {len(scores)} ids for the {len(ids)} it was sent: "
                "one score for each id wanted"
            )
        for one in ids:
            score = found[one]
            if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= HIGHEST:
                raise RewardError(
                    f"reward server {self.url} scored picture {one} {score!r:.40}: a finite number wanted"
                )
        return [float(found[one]) for one in ids]


def _host(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ArgumentError(f"'{url}' is no address of a reward server: give one like http://127.0.0.1:8000")
    return host


def loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def together(work: Callable[[T], R], parts: Sequence[T], *, workers: int) -> list[R]:
    """What some work makes of each part, several at a time; an error, or Ctrl-C, does not wait for the others."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | None, BaseException | None]] = queue.SimpleQueue()
    for number in range(len(parts)):
        todo.put(number)
    stop = threading.Event()

    def take() -> None:
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                number = todo.get_nowait()
                try:
                    done.put((number, work(parts[number]), None))
                except BaseException as error:
                    done.put((number, None, error))

    for _ in range(min(workers, len(parts))):
        threading.Thread(target=take, daemon=True).start()
    found: dict[int, Any] = {}
    try:
        while len(found) < len(parts):
            number, result, error = done.get()
            if error is not None:
                raise error
            found[number] = result
    finally:
        stop.set()
    return [found[number] for number in range(len(parts))]


def _png(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _said(error: urllib.error.HTTPError) -> str:
    """The server's own sentence, if it sent one."""
    try:
        return ": " + shorten(str(json.loads(error.read(4096))["error"]), 300)
    except (ValueError, TypeError, KeyError, RecursionError, OSError, http.client.HTTPException):
        return ""
