"""A chat server for tests: it speaks the protocol of OpenAI's, and can do anything wrong that a real one does."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageStat

__all__ = ["Asked", "ChatServer", "brightness", "completion", "judge_brightness", "serve_chat"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.body["messages"][0]["content"][0]["text"]

    @property
    def images(self) -> list[Image.Image]:
        urls = [part["image_url"]["url"] for part in self.body["messages"][0]["content"] if "image_url" in part]
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


@dataclasses.dataclass
class ChatServer:
    """A running server: its address, and what it was asked."""

    url: str
    asked: list[Asked]
    together: int = 0  # the most requests at one time


def brightness(image: Image.Image) -> float:
    """The mean pixel, 0 to 1."""
    return sum(ImageStat.Stat(image.convert("RGB")).mean) / 3 / 255


def completion(text: str | None, *, first: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """A response with one answer; `first` holds the probabilities of its first token."""
    top = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in (first or {}).items()]
    message = {"role": "assistant", "content": text, **({"refusal": more["refusal"]} if "refusal" in more else {})}
    choice = {"index": 0, "message": message, "finish_reason": more.get("finish", "stop")}
    if first is not None:
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
        "choices": [choice] * more.get("count", 1),
    }  # fmt: skip


def judge_brightness(asked: Asked) -> dict[str, Any]:
    """Answers as a model does that likes bright images, in whichever way it is asked."""
    values = [brightness(image) for image in asked.images]
    if asked.body.get("logprobs"):
        words = ("Yes", "No") if len(values) == 1 else ("A", "B")
        p = values[0] if len(values) == 1 else 1 / (1 + math.exp(-8 * (values[0] - values[1])))
        return completion(words[0], first={words[0]: max(p, 1e-6) * 0.9, words[1]: max(1 - p, 1e-6) * 0.9, "Well": 0.1})
    if len(values) == 1:
        return completion(json.dumps({"reason": f"brightness {values[0]:.3f}", "score": 10 * values[0]}))
    better = "tie" if values[0] == values[1] else "A" if values[0] > values[1] else "B"
    return completion(json.dumps({"reason": f"{better} is brighter", "better": better}))


@contextlib.contextmanager
def serve_chat(behave: Callable[[BaseHTTPRequestHandler, int, Asked], Any] | None = None) -> Iterator[ChatServer]:
    """A server that answers request number n with what `behave(handler, n, asked)` returns; None: it has answered.

    By default it likes bright images.
    """
    lock, open_requests = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(body, {name.lower(): value for name, value in self.headers.items()})
            with lock:
                server.asked.append(asked)
                number = len(server.asked)
                open_requests[0] += 1
                server.together = max(server.together, open_requests[0])
            try:
                with contextlib.suppress(ConnectionError):
                    answer = judge_brightness(asked) if behave is None else behave(self, number, asked)
                    if answer is not None:
                        send(self, answer)
            finally:
                with lock:
                    open_requests[0] -= 1

        def log_message(self, format: str, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads, running.block_on_close = True, False
    server = ChatServer(f"http://127.0.0.1:{running.server_port}/v1", [])
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()


def send(
    handler: BaseHTTPRequestHandler, content: Any, status: int = 200, *, cut: int | None = None, kind: str = "json",
    **headers: str,
) -> None:  # fmt: skip
    """Send a response; `cut` bytes of it only, and then hang up."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", f"application/{kind}")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body[:cut])
    if cut is not None:
        handler.close_connection = True


def fail(handler: BaseHTTPRequestHandler, status: int, said: str) -> None:
    """Answer with an error."""
    send(handler, {"error": {"message": said, "type": "x", "code": None}}, status)


def sleep(seconds: float) -> None:
    """Keep a client waiting."""
    time.sleep(seconds)
