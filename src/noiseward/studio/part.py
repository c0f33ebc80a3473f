"""A part of the page: components that change together.

Each part has a stream of its own. Gradio makes every component of an update again, with its schema, also those that are
skipped; with one stream for the whole page, that took a server most of its time once twenty pages were open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from noiseward.studio.desk import View

__all__ = ["Part"]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some components, and what is new of them.

    Arguments:
        outputs: the components.
        poll: what each of them shows now on a page; None if nothing has changed there.
    """

    outputs: list[Any]
    poll: Callable[[View], list[Any] | None]
