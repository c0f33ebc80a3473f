"""A chat server on this machine whose "model" is the built-in judge: it speaks the protocol, so that a run with a chat
judge can be shown where no vision-language model can be had.

It answers a question about one image with Yes or No and their log-probabilities, by the judge's fit of the image to the
prompt in the question, and one about two images with A or B.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy
import torch
from PIL import Image

from noiseward.rewards.parse import make_reward

__all__ = ["serve_judge"]

SLOPE, MIDDLE = 12.0, 0.4  # from a cosine to a probability


@contextlib.contextmanager
def serve_judge() -> Iterator[tuple[str, list[int]]]:
    """A running server: its address, and how many requests it had, as the only entry of a list."""
    judge, lock, count = make_reward("stickers-judge"), threading.Lock(), [0]

    def fit(url: str, prompt: str) -> float:
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        sample = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None] / 255
        with lock, torch.no_grad():
            return judge(sample, [prompt]).item()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text, *images = body["messages"][0]["content"]
            prompt = text["text"].partition("for this prompt:\n")[2].partition("\n")[0]
            fits = [fit(image["image_url"]["url"], prompt) for image in images]
            margin = fits[0] - MIDDLE if len(fits) == 1 else fits[0] - fits[1]
            p, words = 1 / (1 + math.exp(-SLOPE * margin)), ("Yes", "No") if len(fits) == 1 else ("A", "B")
            count[0] += 1
            answer = json.dumps(answer_with(words, p)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", count
    finally:
        server.shutdown()
        server.server_close()


def answer_with(words: tuple[str, str], p: float) -> dict[str, Any]:
    """A completion of one word, with the probabilities of two."""
    pairs = zip(words, (p, 1 - p), strict=True)
    top = [{"token": word, "logprob": math.log(max(q, 1e-9)), "bytes": None} for word, q in pairs]
    first = max(top, key=lambda one: one["logprob"])
    message = {"role": "assistant", "content": first["token"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    choice["logprobs"] = {"content": [{**first, "top_logprobs": top}]}
    usage = {"prompt_tokens": 400, "completion_tokens": 1, "total_tokens": 401}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice], "usage": usage}
