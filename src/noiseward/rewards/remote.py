"""Rewards behind HTTP: images and prompts out, scores in.

The protocol is one request. A client posts JSON with `Content-Type: application/json`,

    {"items": [{"id": "0", "prompt": "a duck", "image": "<PNG, base64>"}, ...]}

where `prompt` may be null. The answer has status 200 and

    {"scores": [{"id": "0", "score": 0.25}, ...]}

one finite number per id, in any order. Any other status may carry `{"error": "a sentence"}`. Connections that fail or
break off, 429 and 5xx are retried while there is time; anything else, and any answer that is not as above, is an error
at once. A token is sent as `Authorization: Bearer TOKEN`, from `token=` or the environment variable `NOISEWARD_TOKEN`.
`serve.py` is a server of this protocol; twenty lines of any web framework are another.

The images leave this process, and the machine if the server is elsewhere.
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

from noiseward.errors import ArgumentError, RewardError, SpendingLimit, describe_error, shorten
from noiseward.images import to_images
from noiseward.rewards.deadline import make_handlers
from noiseward.rewards.reward import Reward

__all__ = ["RemoteReward", "is_loopback"]

T = TypeVar("T")
R = TypeVar("R")

LONGEST = 16 * 2**20  # bytes of an answer
HIGHEST = 3.4e38  # score that float32 holds
RETRIED = {429, *range(500, 600)}


@final
class RemoteReward(Reward):
    """A reward that a server computes. A black box.

    Arguments:
        url: of the server, `http://...` or `https://...`.
        name: in tables; default: the server's host and port.
        batch: images per request.
        workers: concurrent requests.
        timeout: seconds for a whole request: finding the server, sending, waiting, reading, and all retries.
        retries: of a request, while there is time.
        backoff: seconds before the first retry, twice as many before each next.
        token: for the server; default: the environment variable NOISEWARD_TOKEN, if it is set.

    Raises:
        RewardError: no answer after all tries, or an invalid one.

    Example:
        >>> from noiseward.rewards.parse import make_reward
        >>> from noiseward.rewards.serve import run_server
        >>> with run_server(make_reward("darkness")) as url:
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
                raise ArgumentError(f"{what} must be an integer >= {least}, got {count}")
        if not 0 < timeout < math.inf or not 0 <= backoff < math.inf:
            raise ArgumentError(f"timeout and backoff must be positive seconds, got {timeout} and {backoff}")
        self.url, self.name = url, name or urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
        self.batch, self.workers, self.timeout, self.retries, self.backoff = batch, workers, timeout, retries, backoff
        self._token = os.environ.get("NOISEWARD_TOKEN", "") if token is None else token
        if not re.fullmatch(r"[\x21-\x7e]*", self._token):
            raise ArgumentError("the token of a reward server must be printable ASCII without spaces: give another")
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(host) else []  # no proxy leads back to this machine
        self._opener = urllib.request.build_opener(*make_handlers(), *proxies)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        items = [
            {"id": str(row), "prompt": prompt[row] if prompt else None, "image": _encode_png(image)}
            for row, image in enumerate(to_images(sample))
        ]
        batches = [items[begin : begin + self.batch] for begin in range(0, len(items), self.batch)]
        answers = map_parallel(self._request, batches, workers=self.workers)
        return torch.tensor([score for answer in answers for score in answer], device=sample.device)

    def _request(self, items: list[dict[str, Any]]) -> list[float]:
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
                return self._read_scores(self._post(body, end - time.monotonic()), [item["id"] for item in items])
            except urllib.error.HTTPError as error:
                with error:
                    failure = f"answered {error.code} {shorten(error.reason, 100)}{_server_message(error)}"
                if error.code not in RETRIED:
                    raise RewardError(f"reward server {self.url} {failure}") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", None) or error
                if isinstance(reason, TimeoutError) and time.monotonic() >= end:
                    failure = f"did not answer within {self.timeout:g} s: increase timeout= if it needs longer"
                    break
                failure = f"cannot be reached ({describe_error(reason, 200)}): is it up?"
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

    def _read_scores(self, answer: bytes, ids: list[str]) -> list[float]:
        """The scores of an answer by id, checked."""
        try:
            scores = json.loads(answer)["scores"]
            by_id = {entry["id"]: entry["score"] for entry in scores}
        except (ValueError, TypeError, KeyError, RecursionError):
            shown = " ".join(answer[:60].decode(errors="replace").split())
            raise RewardError(
                f'reward server {self.url} must answer {{"scores": [{{"id": "0", "score": 0.25}}, ...]}}, got '
                f"'{shown}'"
            ) from None
        if len(scores) != len(ids) or by_id.keys() != set(ids):
            got = f"{len(scores)} for ids {shorten(', '.join(map(str, by_id)), 60)}"
            raise RewardError(f"reward server {self.url} must send one score for each of {len(ids)} ids, got {got}")
        for one in ids:
            score = by_id[one]
            if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= HIGHEST:
                raise RewardError(
                    f"reward server {self.url} must send finite numbers, got {score!r:.40} for image {one}"
                )
        return [float(by_id[one]) for one in ids]


def _host(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ArgumentError(f"expected the address of a reward server, as in http://127.0.0.1:8000, got '{url}'")
    return host


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def map_parallel(work: Callable[[T], R], parts: Sequence[T], *, workers: int) -> list[R]:
    """Apply a function to each part, several at a time.

    An error, or Ctrl-C, does not wait for the others; a limit on costs does, since they are paid for.
    """
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

    threads = [threading.Thread(target=take, daemon=True) for _ in range(min(workers, len(parts)))]
    for thread in threads:
        thread.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < len(parts):
            number, result, error = done.get()
            if error is not None:
                raise error
            results[number] = result
    except SpendingLimit:
        stop.set()
        for thread in threads:
            thread.join()
        raise
    finally:
        stop.set()
    return [results[number] for number in range(len(parts))]


def _encode_png(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _server_message(error: urllib.error.HTTPError) -> str:
    """The server's own message, if it sent one."""
    try:
        return ": " + shorten(str(json.loads(error.read(4096))["error"]), 300)
    except (ValueError, TypeError, KeyError, RecursionError, OSError, http.client.HTTPException):
        return ""
