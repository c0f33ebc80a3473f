"""A reward as an HTTP server, on this machine only: the other end of `remote.py`, where the protocol is written down.

It listens on the loopback address, takes JSON alone (which a web page elsewhere cannot send here unasked), and computes
one request at a time. It is for trying things out and for keeping a heavy judge in a process of its own, not for the
open net.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.reward import Reward, score

__all__ = ["server", "serving"]

LARGEST = 256 * 2**20  # bytes of a request
SIDE = 8192  # pixels of a picture


def server(reward: Reward, port: int = 0) -> ThreadingHTTPServer:
    """A server of a reward, not yet running: `serve_forever()` runs it.

    Arguments:
        reward: what to compute.
        port: on 127.0.0.1; 0 takes a free one, which `server_port` then names.

    Raises:
        ArgumentError: the port is taken, or none.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds a connection may stand still
        server_version, sys_version = "noiseward", ""

        def do_GET(self) -> None:
            self._answer(200, {"reward": reward.name})

        def do_POST(self) -> None:
            status, answer = self._judged()
            self._answer(status, answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _judged(self) -> tuple[int, dict[str, Any]]:
            length = self.headers.get("Content-Length", "")
            if self.headers.get_content_type() != "application/json":
                return 415, {"error": "Content-Type: application/json wanted"}
            if not length.isdecimal() or int(length) > LARGEST:
                return 413, {"error": f"a Content-Length of at most {LARGEST} bytes wanted: send fewer pictures"}
            try:
                ids, sample, prompts = _read(self.rfile.read(int(length)))
            except (ValueError, TypeError, KeyError, OSError, Image.DecompressionBombError) as error:
                return 400, {"error": f"the request cannot be read ({type(error).__name__}: {error})"}
            try:
                with lock, torch.no_grad():
                    total, _ = score(reward, sample, prompts)
            except NoisewardError as error:
                return 422, {"error": str(error)}
            return 200, {"scores": [{"id": one, "score": s} for one, s in zip(ids, total.tolist(), strict=True)]}

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            with contextlib.suppress(ConnectionError):  # whoever asked has left
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ArgumentError(f"port {port} cannot be listened on ({error}): give another with --port, or 0") from None


@contextlib.contextmanager
def serving(reward: Reward, port: int = 0) -> Iterator[str]:
    """A running server of a reward for the body of a `with`; gives its address.

    Example:
        >>> import urllib.request
        >>> from noiseward.rewards import named
        >>> with serving(named("darkness")) as url, urllib.request.urlopen(url) as answer:
        ...     json.load(answer)
        {'reward': 'darkness'}
    """
    running = server(reward, port)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def _read(body: bytes) -> tuple[list[str], Tensor, list[str] | None]:
    """Ids, pictures `(B, 3, H, W)` and prompts of a request; anything wrong with it is a ValueError or the like."""
    items = json.loads(body)["items"]
    if not isinstance(items, list) or not items:
        raise ValueError("'items' is no list of pictures")
    pictures = [_picture(item["image"]) for item in items]
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError("pictures of different sizes in one request")
    prompts = [item.get("prompt") for item in items]
    spoken = None if all(prompt is None for prompt in prompts) else [str(prompt or "") for prompt in prompts]
    return [str(item["id"]) for item in items], torch.stack(pictures), spoken


def _picture(text: str) -> Tensor:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is not base64: {error}") from None
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
        if max(image.size) > SIDE:
            raise ValueError(f"a picture of {image.size[0]} x {image.size[1]} pixels; at most {SIDE} a side")
        levels = numpy.asarray(image.convert("RGB"), dtype=numpy.float32) / 255
    return torch.from_numpy(levels).permute(2, 0, 1)
