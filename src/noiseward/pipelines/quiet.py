"""Other libraries' remarks and progress bars, kept to themselves for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["hushed"]


@contextlib.contextmanager
def hushed(bars: bool = False) -> Iterator[None]:
    """For the body of a `with`: no remarks on packages and settings and, if asked, no progress bars."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        if bars:
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars and shown:
                log.enable_progress_bar()
