"""A reward as an HTTP server: the other end of `remote.py`, where the protocol is written down.

It listens on the loopback address unless told otherwise, and elsewhere only with a token. It takes JSON alone (which a
web page elsewhere cannot send here unasked), and computes one request at a time. It speaks no TLS: beyond a network
that is trusted, put it behind a proxy that does.

Nothing a client sends takes more than a bounded share of the machine:

    connections   64 at a time, a thread each; where all are taken, the one that has been coming in for longest, and for
                  longer than 5 s, makes room, else the new one is answered 503
    time          60 s for a request to come in whole, and for its answer to be taken
    bytes         256 MiB a request, 512 MiB of all that are coming in or waiting; else 503
    pixels        16 Mi an image and 32 Mi a request, told from the images' headers before anything is decoded
    items         4096 a request, and 64 JSON values an item, told from the bytes before they are parsed

Requests are decoded one at a time, too, so that what is decoded is there once.
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
from noiseward.rewards.remote import loopback
from noiseward.rewards.reward import Reward, score

__all__ = ["server", "serving"]

LARGEST = 256 * 2**20  # bytes of a request
WAITING = 512 * 2**20  # bytes of all requests that are coming in or wait to be computed
SIDE = 8192  # pixels of an image
PIXELS = 2**24  # of an image
ALL_PIXELS = 2**25  # of a request
ITEMS = 4096
VALUES = 64 * ITEMS  # of a request's JSON: small ones take 30 times their text once they are parsed
CONNECTIONS = 64
SECONDS = 60.0  # for a request to come in, and for its answer to be taken
PATIENCE = 5.0  # seconds after which a request that is still coming in makes room for another


def server(reward: Reward, port: int = 0, *, host: str = "127.0.0.1", token: str = "") -> RewardServer:
    """A server of a reward, not yet running: `serve_forever()` runs it.

    Arguments:
        reward: what to compute.
        port: 0 takes a free one, which `server_port` then names.
        host: the address to listen on.
        token: what a client must show, as `Authorization: Bearer TOKEN`; empty for none.

    Raises:
        ArgumentError: the port is taken, or none; or no token for an address that others can reach.
    """
    if not token and not loopback(host):
        raise ArgumentError(
            f"a reward server at {host} can be reached by others: give a token with --token or in NOISEWARD_TOKEN, or "
            "listen on 127.0.0.1"
        )
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise ArgumentError("a token must be printable ASCII without spaces: give another")
    try:
        return RewardServer(reward, (host, port), token)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ArgumentError(f"port {port} cannot be listened on ({error}): give another with --port, or 0") from None


@final
class RewardServer(ThreadingHTTPServer):
    """See the module.

    Arguments:
        reward: what to compute.
        address: host and port.
        token: what a client must show.
    """

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
        """Give a connection a thread, if there is one to give."""
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            slow = [one for one, since in self._open.items() if one not in self._busy and _ago(since) > PATIENCE]
            if full and slow:
                _cut(slow[0])
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
        """Cut off what takes too long; called between connections and a few times a second."""
        with self._lock:
            for one, since in self._open.items():
                if one not in self._busy and _ago(since) > SECONDS:
                    _cut(one)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
            self._busy.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening, and cut off all connections."""
        super().server_close()
        with self._lock:
            for one in self._open:
                _cut(one)

    def server_bind(self) -> None:
        """Bind, without asking the network for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # pyright: ignore[reportAttributeAccessIssue]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is ignored; anything else is a line. The others go on."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            print(
                f"noiseward: a request failed ({describe_error(error, kind=True)})",
                file=sys.stderr,
                flush=True,
            )

    def take(self, count: int) -> bool:
        """Whether there is room for some more bytes of a request; takes it if there is."""
        with self._lock:
            fits = self._bytes + count <= WAITING
            self._bytes += count if fits else 0
        return fits

    def give(self, count: int) -> None:
        """Give the room of some bytes back."""
        with self._lock:
            self._bytes -= count

    def came(self, connection: socket.socket, whole: bool) -> None:
        """Note that a request is complete, or that its answer is ready, from when on its taking is timed."""
        with self._lock:
            self._busy.add(connection) if whole else self._busy.discard(connection)
            if connection in self._open:
                self._open[connection] = time.monotonic()


@final
class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SECONDS
    server_version, sys_version = "noiseward", ""

    def do_GET(self) -> None:
        """Say what is served."""
        refused = self._stranger()
        self._answer(*(refused or (200, {"reward": self.server.reward.name})))

    def do_POST(self) -> None:
        """Score the images of a request."""
        status, content = self._stranger() or self._judged()
        self.server.came(self.connection, False)
        self._answer(status, content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _stranger(self) -> tuple[int, dict[str, Any]] | None:
        shown = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if self.server.token and not hmac.compare_digest(shown, f"Bearer {self.server.token}".encode()):
            return 401, {"error": "this server wants a token: set NOISEWARD_TOKEN, or send Authorization: Bearer TOKEN"}
        return None

    def _judged(self) -> tuple[int, dict[str, Any]]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            return 415, {"error": "Content-Type: application/json wanted"}
        if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > LARGEST:
            return 413, {"error": f"a Content-Length of at most {LARGEST} bytes wanted: send fewer pictures"}
        body, taken = bytearray(), 0
        try:
            while len(body) < int(length):
                piece = self.rfile.read1(min(2**20, int(length) - len(body)))
                if not piece:
                    return 400, {"error": f"the request cannot be read (it ends after {len(body)} of {length} bytes)"}
                if not self.server.take(len(piece)):
                    return 503, {"error": "too many requests at a time: try again"}
                taken += len(piece)
                body += piece
            self.server.came(self.connection, True)
            with self.server.computing:
                return self._scored(body)
        except MemoryError:
            return 503, {"error": "memory ran out: send fewer or smaller pictures"}
        finally:
            self.server.give(taken)

    def _scored(self, body: bytearray) -> tuple[int, dict[str, Any]]:
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
def serving(reward: Reward, port: int = 0, *, token: str = "") -> Iterator[str]:
    """A running server of a reward for the body of a `with`; gives its address.

    Example:
        >>> import urllib.request
        >>> from noiseward.rewards.parse import named
        >>> with serving(named("darkness")) as url, urllib.request.urlopen(url) as answer:
        ...     json.load(answer)
        {'reward': 'darkness'}
    """
    running = server(reward, port, token=token)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def _ago(since: float) -> float:
    return time.monotonic() - since


def _cut(connection: socket.socket) -> None:
    """Make a connection's thread see its end; it then closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(body: bytes | bytearray) -> tuple[list[str], Tensor, list[str] | None]:
    """Ids, pictures `(B, 3, H, W)` and prompts of a request; anything wrong with it is a ValueError or the like."""
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))  # each value but the first follows one of these
    if values > VALUES:
        raise ValueError(f"expected at most {VALUES} values, got {values} commas and brackets; send fewer items")
    try:
        items = json.loads(body)["items"]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(items, list) or not items:
        raise ValueError("'items' is no list of pictures")
    if len(items) > ITEMS:
        raise ValueError(f"{len(items)} items; at most {ITEMS} in a request")
    sizes = {_opened(item["image"]).size for item in items}
    if len(sizes) > 1:
        raise ValueError("pictures of different sizes in one request")
    width, height = sizes.pop()
    if len(items) * width * height > ALL_PIXELS:
        raise ValueError(f"{len(items)} pictures of {width} x {height} pixels; at most {ALL_PIXELS} in a request")
    ids = [str(item["id"]) for item in items]
    prompts = [item.get("prompt") for item in items]
    spoken = None if all(prompt is None for prompt in prompts) else [str(prompt or "") for prompt in prompts]
    sample = torch.empty(len(items), 3, height, width)
    for row, item in enumerate(items):
        with _opened(item["image"]) as image:
            levels = torch.from_numpy(numpy.array(image.convert("RGB")))
        torch.div(levels.permute(2, 0, 1), 255, out=sample[row])
    return ids, sample, spoken


def _opened(text: str) -> Image.Image:
    """An image of which only the header was read."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is not base64: {error}") from None
    image = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    width, height = image.size
    if max(width, height) > SIDE or width * height > PIXELS:
        raise ValueError(f"a picture of {width} x {height} pixels; at most {SIDE} a side and {PIXELS} in all")
    return image
