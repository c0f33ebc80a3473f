"""The process that works for a studio: one job after the other, with models and rewards kept between them.

It reads a line of JSON per request from its standard input, `{"id": ..., "kind": ..., ...}` or `{"stop": id}`, and
writes a line per event to its standard output: `{"id": ..., "event": "begun"}`, `{..., "event": "warned", "text": ...}`
and `{..., "event": "ended", "state": ..., "error": ..., "result": ...}`.
When its input ends, because the server has ended or was killed, it stops the run that it does, which can then be
resumed, and ends too.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

__all__ = ["main"]


class _Inbox:
    """What was asked, read by a thread; a stop is passed on as a Ctrl-C if it is for the job that is being done."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self.jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.current: str | None = None
        self.stopped: set[str] = set()
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def is_stopped(self) -> bool:
        """Whether the job that is being done is to stop."""
        return self.ended or self.current in self.stopped

    def _read(self) -> None:
        for line in self._source:
            request = json.loads(line)
            if "stop" in request:
                self.stopped.add(request["stop"])
                if request["stop"] == self.current:
                    _thread.interrupt_main()
            else:
                self.jobs.put(request)
        self.ended = True
        self.jobs.put(None)
        _thread.interrupt_main()


@contextlib.contextmanager
def _pass_warnings(tell: Callable[[str], None]) -> Iterator[None]:
    """For the body of a `with`, say what this library warns of, where the log alone would have it."""
    from noiseward.errors import NoisewardWarning, describe_error

    with warnings.catch_warnings():
        warnings.simplefilter("always", NoisewardWarning)
        show = warnings.showwarning

        def pass_on(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            show(message, category, *where, **more)
            if issubclass(category, NoisewardWarning):
                tell(describe_error(message, 600) if isinstance(message, Warning) else message)

        warnings.showwarning = pass_on
        yield


def main() -> None:
    """Work until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no event
    signal.signal(signal.SIGINT, lambda *_: None)  # between steps of a run nothing is to be interrupted
    inbox = _Inbox(sys.stdin)

    def emit(**event: Any) -> None:
        try:
            print(json.dumps(event), file=out, flush=True)
        except BrokenPipeError:  # the server is gone; its end of input follows
            pass

    from noiseward.studio.work import Work

    work = Work()
    while (request := inbox.jobs.get()) is not None and not inbox.ended:
        inbox.current = request["id"]
        emit(id=request["id"], event="begun")
        with _pass_warnings(lambda text, id=request["id"]: emit(id=id, event="warned", text=text)):
            state, error, result = work.do(request, inbox.is_stopped)
        inbox.current = None
        emit(id=request["id"], event="ended", state=state, error=error, result=result)


if __name__ == "__main__":
    main()
