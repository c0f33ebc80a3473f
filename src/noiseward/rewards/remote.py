"""Rewards behind HTTP: pictures and prompts out, scores in.

The protocol is one request. A client posts JSON with `Content-Type: application/json`,

    {"items": [{"id": "0", "prompt": "a duck", "image": "<PNG, base64>"}, ...]}

where `prompt` may be null, and is answered with status 200 and

    {"scores": [{"id": "0", "score": 0.25}, ...]}

one finite number per id, in any order. Any other status may carry `{"error": "a sentence"}`. Connections that fail or
break off, timeouts, 429 and 5xx are tried again; anything else, and any answer that is not as above, is an error at
once. `serve.py` is a server of this protocol; twenty lines of any web framework are another.

The pictures leave this process, and the machine if the server is elsewhere.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, RewardError
from noiseward.pictures import images
from noiseward.reward import Reward

__all__ = ["RemoteReward"]

LONGEST = 16 * 2**20  # bytes of an answer
AGAIN = {429, *range(500, 600)}


@final
class RemoteReward(Reward):
    """A reward that a server computes. A black box.

    Arguments:
        url: where to post to, `http://...` or `https://...`.
        name: how tables call it; default: the server's host and port.
        batch: pictures per request.
        workers: requests under way at the same time.
        timeout: seconds for one try of one request, from beginning to end.
        retries: how often a request is tried again.
        backoff: seconds before the first retry, twice as many before each next.

    Raises:
        RewardError: no answer after all tries, or an answer that makes no sense.

    Example:
        >>> from noiseward.rewards import named
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
    ) -> None:
        host = _host(url)
        for what, count, least in (("batch", batch, 1), ("workers", workers, 1), ("retries", retries, 0)):
            if not (isinstance(count, int) and count >= least):
                raise ArgumentError(f"{what}={count} given: a whole number, at least {least}, wanted")
        if not 0 < timeout < math.inf or not 0 <= backoff < math.inf:
            raise ArgumentError(f"timeout={timeout}, backoff={backoff} given: positive numbers of seconds wanted")
        self.url, self.name = url, name or urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
        self.batch, self.workers, self.timeout, self.retries, self.backoff = batch, workers, timeout, retries, backoff
        handlers = [urllib.request.ProxyHandler({})] if _loopback(host) else []  # no proxy leads back to this machine
        self._opener = urllib.request.build_opener(*handlers)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        pictures = images(sample)
        items = [
            {"id": str(row), "prompt": prompt[row] if prompt else None, "image": _png(picture)}
            for row, picture in enumerate(pictures)
        ]
        batches = [items[begin : begin + self.batch] for begin in range(0, len(items), self.batch)]
        with ThreadPoolExecutor(min(self.workers, len(batches))) as pool:
            answers = list(pool.map(self._scores, batches))
        return torch.tensor([score for answer in answers for score in answer], device=sample.device)

    def _scores(self, items: list[dict[str, Any]]) -> list[float]:
        """The scores of one request's items, in their order."""
        body = json.dumps({"items": items}).encode()
        failure = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return self._ordered(self._post(body), [item["id"] for item in items])
            except urllib.error.HTTPError as error:
                failure = f"answered {error.code} {error.reason}{_said(error)}"
                if error.code not in AGAIN:
                    raise RewardError(f"reward server {self.url} {failure}") from None
            except TimeoutError:
                failure = f"did not answer within {self.timeout:g} s: raise timeout= if it needs longer"
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", None) or error
                late = isinstance(reason, TimeoutError)
                said = " ".join(str(reason).split()) or type(reason).__name__
                failure = (
                    f"did not answer within {self.timeout:g} s" if late else f"cannot be reached ({said}): is it up?"
                )
        raise RewardError(f"reward server {self.url} {failure} ({self.retries + 1} tries)")

    def _post(self, body: bytes) -> bytes:
        end = time.monotonic() + self.timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.url, data=body, headers=headers)
        with self._opener.open(request, timeout=self.timeout) as response:
            parts, size = [], 0
            while part := response.read1(2**16):  # in pieces, so that a server that dribbles is noticed too
                parts.append(part)
                size += len(part)
                if size > LONGEST:
                    raise RewardError(f"reward server {self.url} answered with more than {LONGEST} bytes")
                if time.monotonic() > end:
                    raise TimeoutError
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
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
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


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _png(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _said(error: urllib.error.HTTPError) -> str:
    """The server's own sentence, if it sent one."""
    try:
        said = json.loads(error.read(4096))["error"]
        return ": " + " ".join(str(said).split())[:300]
    except (ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
        return ""
