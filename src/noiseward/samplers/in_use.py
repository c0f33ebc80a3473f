"""A model runs in one thread at a time.

While a sampler runs, parts of its model are replaced: a denoiser's `forward`, a pipeline's scheduler. A second thread
that replaced them at the same time would count its calls with the first one's, and leave the first one's parts in place
when both are done. So a part that is replaced is occupied, and refused to other threads. Within a thread runs may be
nested, and the steps of several runs taken in turn.

A gradient comes back in a thread of its device where that is a GPU. What is recomputed there is the work of the thread
that made the call: `act_for` says so in the context of the recomputation.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator

from noiseward.errors import ModelInUse

__all__ = ["act_for", "find_thread", "occupy"]

_LOCK = threading.Lock()
_ACTING_FOR: contextvars.ContextVar[int | None] = contextvars.ContextVar("acting for", default=None)
_USERS: dict[int, tuple[int, int]] = {}  # by the id of what is occupied: the thread, and how many times


def find_thread() -> int:
    """The thread whose work is done now."""
    return _ACTING_FOR.get() or threading.get_ident()


def act_for(thread: int) -> None:
    """From now on, what is done in the current context is the work of another thread."""
    _ACTING_FOR.set(thread)


@contextlib.contextmanager
def occupy(part: object, thread: int | None = None) -> Iterator[None]:
    """For the body of a `with`, a model, or a part of one, is a thread's own.

    Arguments:
        part: of the model.
        thread: whose it is; default: the one whose work is done now.

    Raises:
        ModelInUse: it is another thread's.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2)
        >>> with occupy(model), occupy(model):
        ...     model(torch.zeros(1, 2)).shape
        torch.Size([1, 2])
    """
    thread, key = thread or find_thread(), id(part)
    with _LOCK:
        user, times = _USERS.get(key, (thread, 0))
        if user != thread:
            raise ModelInUse(
                f"{type(part).__name__} is already being run in another thread; wait for it, or give each run its own "
                "copy"
            )
        _USERS[key] = user, times + 1
    try:
        yield
    finally:
        with _LOCK:
            times = _USERS.pop(key)[1] - 1
            if times:
                _USERS[key] = thread, times
