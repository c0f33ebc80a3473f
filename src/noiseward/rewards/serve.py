"""A reward as an HTTP server: the other end of `remote.py`, where the protocol is written down.

It listens on the loopback address by default, and elsewhere only with a token. It takes JSON alone (which a web page
elsewhere cannot send here by itself), and computes one request at a time. It has no TLS: outside a trusted network, put
it behind a proxy that has.

What a client sends takes a bounded share of the machine:

    connections   64 at a time, a thread each; when all are taken, the one that has been coming in for longest, and for
                  longer than 5 s, is closed, else the new one gets a 503
    time          60 s for a request to come in, and for its answer to be read
    bytes         256 MiB a request, 512 MiB of all that are coming in or waiting; else 503
    pixels        16 Mi an image and 32 Mi a request, read from the images' headers before anything is decoded
    items         4096 a request, and 64 JSON values an item, counted in the bytes before they are parsed

Requests are decoded one at a time, too, so that memory holds one decoded request.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import io
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, final

import numpy
import torch
from PIL import Image
from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardError, describe_error, shorten
from noiseward.rewards.remote import is_loopback
from noiseward.rewards.reward import Reward, score

__all__ = ["make_server", "run_server"]

LARGEST = 256 * 2**20  # bytes of a request
WAITING = 512 * 2**20  # bytes of all requests that are coming in or wait to be computed
SIDE = 8192  # pixels of an image
PIXELS = 2**24  # of an image
ALL_PIXELS = 2**25  # of a request
ITEMS = 4096
VALUES = 64 * ITEMS  # of a request's JSON: small ones take 30 times their text once they are parsed
CONNECTIONS = 64
SECONDS = 60.0  # for a request to come in, and for its answer to be read
PATIENCE = 5.0  # seconds after which a request that is still coming in makes room for another


def make_server(reward: Reward, port: int = 0, *, host: str = "127.0.0.1", token: str = "") -> RewardServer:
    """Make a server of a reward; `serve_forever()` runs it.

    Arguments:
        reward: to compute.
        port: to listen on; 0 takes a free one, which is then `server_port`.
        host: the address to listen on.
        token: that a client must send, as `Authorization: Bearer TOKEN`; empty for none.

    Raises:
        ArgumentError: the port is taken or invalid; or no token for an address that others can reach.
    """
    if not token and not is_loopback(host):
        raise ArgumentError(
            f"a reward server at {host} can be reached by others: give a token with --token or in NOISEWARD_TOKEN, or "
            "listen on 127.0.0.1"
        )
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise ArgumentError("a token must be printable ASCII without spaces: give another")
    try:
        return RewardServer(reward, (host, port), token)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ArgumentError(f"cannot listen on port {port} ({error}): give another with --port, or 0") from None


@final
class RewardServer(ThreadingHTTPServer):
    """Serves a reward within the limits above; see `make_server`."""

    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def __init__(self, reward: Reward, address: tuple[str, int], token: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.reward, self.token = reward, token
        self.computing = threading.Lock()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # since when each connection's request comes in, or its answer goes
        self._busy = set[socket.socket]()  # those whose request is complete
        self._bytes = 0
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, if one is free."""
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            slow = [one for one, since in self._open.items() if one not in self._busy and _elapsed(since) > PATIENCE]
            if full and slow:
                _shut_down(slow[0])
                self._open.pop(slow[0])
            full = len(self._open) >= CONNECTIONS
            if not full:
                self._open[request] = time.monotonic()
        if not full:
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def service_actions(self) -> None:
        """Close what takes too long; called between connections and a few times a second."""
        with self._lock:
            for one, since in self._open.items():
                if one not in self._busy and _elapsed(since) > SECONDS:
                    _shut_down(one)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
            self._busy.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening, and close all connections."""
        super().server_close()
        with self._lock:
            for one in self._open:
                _shut_down(one)

    def server_bind(self) -> None:
        """Bind, without asking the network for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore[reportAttributeAccessIssue]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke off, print anything else in one line, and continue."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            text = f"noiseward: a request failed ({describe_error(error, kind=True)})"
            print(text, file=sys.stderr, flush=True)

    def reserve(self, count: int) -> bool:
        """Reserve room for more bytes of a request; returns whether there is any."""
        with self._lock:
            fits = self._bytes + count <= WAITING
            self._bytes += count if fits else 0
        return fits

    def release(self, count: int) -> None:
        """Release the room of some bytes."""
        with self._lock:
            self._bytes -= count

    def mark(self, connection: socket.socket, *, busy: bool) -> None:
        """Note that a request is complete, or that its answer is ready, and start the time for reading it."""
        with self._lock:
            self._busy.add(connection) if busy else self._busy.discard(connection)
            if connection in self._open:
                self._open[connection] = time.monotonic()


@final
class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SECONDS
    server_version, sys_version = "noiseward", ""

    def do_GET(self) -> None:
        """Answer with the reward's name."""
        refusal = self._check_token()
        self._answer(*(refusal or (200, {"reward": self.server.reward.name})))

    def do_POST(self) -> None:
        """Score the images of a request."""
        status, content = self._check_token() or self._receive()
        self.server.mark(self.connection, busy=False)
        self._answer(status, content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _check_token(self) -> tuple[int, dict[str, Any]] | None:
        sent = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if self.server.token and not hmac.compare_digest(sent, f"Bearer {self.server.token}".encode()):
            return 401, {"error": "this server needs a token: set NOISEWARD_TOKEN, or send Authorization: Bearer TOKEN"}
        return None

    def _receive(self) -> tuple[int, dict[str, Any]]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            return 415, {"error": "expected Content-Type: application/json"}
        if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > LARGEST:
            return 413, {"error": f"expected a Content-Length of at most {LARGEST} bytes: send fewer images"}
        body, reserved = bytearray(), 0
        try:
            while len(body) < int(length):
                piece = self.rfile.read1(min(2**20, int(length) - len(body)))
                if not piece:
                    return 400, {"error": f"the request cannot be read (it ends after {len(body)} of {length} bytes)"}
                if not self.server.reserve(len(piece)):
                    return 503, {"error": "too many requests at a time: try again"}
                reserved += len(piece)
                body += piece
            self.server.mark(self.connection, busy=True)
            with self.server.computing:
                return self._score(body)
        except MemoryError:
            return 503, {"error": "memory ran out: send fewer or smaller images"}
        finally:
            self.server.release(reserved)

    def _score(self, body: bytearray) -> tuple[int, dict[str, Any]]:
        try:
            ids, sample, prompts = _read(body)
        except MemoryError:
            raise
        except Exception as error:  # whatever Pillow's readers raise for files made to break them
            return 400, {"error": f"the request cannot be read ({describe_error(error, 300, kind=True)})"}
        try:
            with torch.no_grad():
                total, _ = score(self.server.reward, sample, prompts)
            scores = total.tolist()
        except NoisewardError as error:
            return 422, {"error": describe_error(error)}
        except Exception as error:  # memory that ran out, of the processor or another device
            return 503, {"error": f"the reward could not be computed ({describe_error(error, 300, kind=True)})"}
        for one, number in zip(ids, scores, strict=True):
            if not abs(number) < float("inf"):
                return 422, {"error": f"reward '{self.server.reward.name}' must give finite numbers, got {number} for "
                                      f"item {shorten(one, 40)}"}  # fmt: skip
        return 200, {"scores": [{"id": one, "score": number} for one, number in zip(ids, scores, strict=True)]}

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        with contextlib.suppress(OSError):  # the client has left, or was cut off
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def run_server(reward: Reward, port: int = 0, *, token: str = "") -> Iterator[str]:
    """Run a server of a reward in the body of a `with`; its value is the address.

    Example:
        >>> import urllib.request
        >>> from noiseward.rewards.parse import make_reward
        >>> with run_server(make_reward("darkness")) as url, urllib.request.urlopen(url) as answer:
        ...     json.load(answer)
        {'reward': 'darkness'}
    """
    server = make_server(reward, port, token=token)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _elapsed(since: float) -> float:
    return time.monotonic() - since


def _shut_down(connection: socket.socket) -> None:
    """Make a connection's thread see its end; it then closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(body: bytes | bytearray) -> tuple[list[str], Tensor, list[str] | None]:
    """Ids, images `(B, 3, H, W)` and prompts of a request; a faulty one raises a ValueError or a similar error."""
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))  # each value but the first follows one of these
    if values > VALUES:
        raise ValueError(f"expected at most {VALUES} values, got {values} commas and brackets; send fewer items")
    try:
        items = json.loads(body)["items"]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(items, list) or not items:
        raise ValueError("expected a list of images under 'items'")
    if len(items) > ITEMS:
        raise ValueError(f"expected at most {ITEMS} items, got {len(items)}")
    sizes = {_open(item["image"]).size for item in items}
    if len(sizes) > 1:
        raise ValueError("expected images of one size")
    width, height = sizes.pop()
    if len(items) * width * height > ALL_PIXELS:
        raise ValueError(f"expected at most {ALL_PIXELS} pixels, got {len(items)} images of {width} x {height}")
    ids = [str(item["id"]) for item in items]
    prompts = [item.get("prompt") for item in items]
    texts = None if all(prompt is None for prompt in prompts) else [str(prompt or "") for prompt in prompts]
    sample = torch.empty(len(items), 3, height, width)
    for row, item in enumerate(items):
        with _open(item["image"]) as image:
            levels = torch.from_numpy(numpy.array(image.convert("RGB")))
        torch.div(levels.permute(2, 0, 1), 255, out=sample[row])
    return ids, sample, texts


def _open(text: str) -> Image.Image:
    """Open an image, reading its header only."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is not base64: {error}") from None
    image = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    width, height = image.size
    if max(width, height) > SIDE or width * height > PIXELS:
        raise ValueError(
            f"expected an image of at most {SIDE} pixels a side and {PIXELS} in all, got {width} x {height}"
        )
    return image
