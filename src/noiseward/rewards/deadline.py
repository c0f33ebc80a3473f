"""HTTP requests with a deadline, whatever the other side does.

A timeout of the standard library applies to each operation on a socket: a server that sends a byte now and then is
waited for without end, and so is one with many addresses, or a name that does not resolve. Here a request has a
deadline, and every operation gets the time left until then.
"""

from __future__ import annotations

import functools
import http.client
import io
import queue
import socket
import threading
import time
import urllib.request
from typing import Any, final

__all__ = ["make_handlers"]

PIECE = 2**14  # bytes that are sent at once: what TLS sends as one


def make_handlers() -> list[urllib.request.BaseHandler]:
    """Make handlers of `http` and `https` for `urllib.request.build_opener`: `timeout` is that of a whole request."""
    return [_Plain(), _Secure()]


class _Deadline:
    """The time left for a request."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; raises `TimeoutError` if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


@final
class _Reader(io.RawIOBase):
    """Reads a socket until the deadline; `owner` is a file that keeps it open until this one is closed."""

    def __init__(self, connection: socket.socket, owner: Any, deadline: _Deadline) -> None:
        self._connection, self._owner, self._deadline = connection, owner, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv_into(buffer)

    def close(self) -> None:
        super().close()
        self._owner.close()


@functools.cache
def _with_deadline(kind: type[http.client.HTTPConnection]) -> type[Any]:
    """A connection whose timeout is that of all it does, from resolving the name to the last byte."""

    class Timed(kind):
        def __init__(self, host: str, *, timeout: float, **more: Any) -> None:
            super().__init__(host, timeout=timeout, **more)
            self._deadline = _Deadline(timeout)

        def connect(self) -> None:
            self._create_connection = self._open_socket  # what http.client makes its socket with
            super().connect()

        def _open_socket(self, address: tuple[str, int], *_: Any) -> socket.socket:
            failure: OSError | None = None
            for family, _, _, _, where in _resolve(address, self._deadline):
                opened = socket.socket(family, socket.SOCK_STREAM)
                try:
                    opened.settimeout(self._deadline.left())
                    opened.connect(where)
                    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return opened
                except OSError as error:
                    opened.close()
                    failure = error
            raise failure or OSError("the name has no address")

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            for begin in range(0, len(data), PIECE):
                assert self.sock is not None  # it is connected
                self.sock.settimeout(self._deadline.left())
                super().send(data[begin : begin + PIECE])

        def response_class(  # pyright: ignore[reportIncompatibleVariableOverride] (called like the class it is for)
            self, connection: socket.socket, *arguments: Any, **more: Any
        ) -> http.client.HTTPResponse:
            response = http.client.HTTPResponse(connection, *arguments, **more)
            response.fp = io.BufferedReader(_Reader(connection, response.fp, self._deadline))
            return response

    return Timed


def _resolve(address: tuple[str, int], deadline: _Deadline) -> list[Any]:
    """The addresses of a name, resolved in a thread of its own, because that cannot be stopped."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            results.put(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = results.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(answer, Exception):
        raise answer if isinstance(answer, OSError) else OSError(str(answer))
    return answer


@final
class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_with_deadline(http.client.HTTPConnection), req)


@final
class _Secure(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_with_deadline(http.client.HTTPSConnection), req)
