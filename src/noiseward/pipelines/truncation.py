"""Prompts that a text encoder reads only the beginning of: said once, in one line, with what is not read.

diffusers logs what it cuts off, and transformers logs that a text is too long, both in terms of their own calls and for
each encoder of a pipeline. Here their records are caught while a prompt is encoded.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import final

from noiseward.errors import NoisewardWarning, shorten
from noiseward.options.parts import literal

__all__ = ["report_truncation"]

_CUT = re.compile(r"part of your input was truncated because .*?(\d+) tokens?:?\s*(.*)", re.DOTALL)
_LONG = "Token indices sequence length is longer than"


@contextlib.contextmanager
def report_truncation() -> Iterator[None]:
    """In the body of a `with`, warn in one line of what is cut off prompts, instead of what libraries log."""
    catch = _Catch()
    handlers = [one for name in ("diffusers", "transformers") for one in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(catch)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(catch)
        for text, count in catch.found.items():
            message = f"the prompt is longer than the {count} tokens that the model reads; not read: {text}"
            warnings.warn(message, NoisewardWarning, stacklevel=2)


@final
class _Catch(logging.Filter):
    """Keeps records about prompts that are too long from being printed.

    Attributes:
        found: what is cut off, and the number of tokens that are read; where encoders differ, the largest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if cut := _CUT.search(message):
            text = shorten(_list_once(re.sub(r"<\|[^|]*\|>", "", cut[2])), 200)  # without special tokens
            self.found[text] = max(int(cut[1]), self.found.get(text, 0))
            return False
        return _LONG not in message


def _list_once(text: str) -> str:
    """What is cut off the prompts of a batch, a list of texts as Python writes it: each text once."""
    found = literal(text.strip())
    if not isinstance(found, list):
        return text.strip("[]")
    return ", ".join(dict.fromkeys(repr(one.strip()) if isinstance(one, str) else str(one) for one in found))
