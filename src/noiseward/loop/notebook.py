"""Progress in a notebook: one output that is updated, with the best image so far, numbers, and the time left."""

from __future__ import annotations

import contextlib
import html
import math
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, final

from noiseward.loop.budget import Budget
from noiseward.loop.progress import Display, describe_cost, describe_numbers, describe_time_left, share_spent
from noiseward.loop.progress import report_fresh_samples as reporting
from noiseward.loop.step import Step
from noiseward.samplers.discovery import report_calls

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["NotebookBars", "draw_image", "is_notebook"]

EVERY = 0.5  # seconds between two updates
PREVIEW = 192  # pixels of the preview's longer side


def is_notebook() -> bool:
    """Whether this is a notebook's kernel, which shows HTML."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def draw_image(image: Image, *, side: int = PREVIEW) -> str:
    """An image as HTML, as wide as its longer side may be, and stored as sharp as that needs."""
    from noiseward.images.preview import shrink, to_data_url

    width = round(image.width * side / max(image.size))
    return f'<img src="{to_data_url(shrink(image, 2 * side))}" width="{width}" style="max-width: none; margin: 4px">'


@final
class NotebookBars(Display):
    """Steps that pass through update one output of a notebook's cell.

    Example:
        >>> is_notebook()
        False
    """

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._handle: Any = None
        self._last = -math.inf
        self._bars: dict[str, str] = {}
        self._preview = ""

    def say(self, text: str) -> None:
        self._notes.append(text)
        self._update(force=True)

    def track(self, steps: Iterable[Step], budget: Budget, *, name: str = "") -> Iterator[Step]:
        def report(made: int, of: int) -> None:
            self._show(name, f"fresh samples to compare with: {made} of {of}", made / of)

        try:
            for step in reporting(steps, report):
                share = share_spent(step, budget)
                left = describe_time_left(step, budget)
                if step.index == 0 and (cost := describe_cost(step, budget)):
                    self._notes.append(cost)
                if (force := time.monotonic() - self._last > EVERY or share == 1.0) and not name:
                    self._preview = _preview(step)
                self._show(name, " · ".join(filter(None, [*describe_numbers(step), left])), share, force=force)
                yield step
        finally:
            self._preview = ""  # the result will show its images
            if name:
                self._bars.pop(name, None)
            self._update(force=True)

    @contextlib.contextmanager
    def show_discovery(self, patience: float | None = None) -> Iterator[None]:
        begun, wait = time.monotonic(), 2.0 if patience is None else patience

        def report(calls: int | None) -> None:
            if calls is not None and time.monotonic() - begun > wait:
                self._show("", f"finding out the sampler's draws: {calls} calls", 0.0)

        with report_calls(report):
            yield

    def _show(self, name: str, text: str, share: float, *, force: bool = False) -> None:
        prefix = f"{html.escape(name)}: " if name else ""
        bar = f'<progress value="{share:.4f}" max="1" style="width: 12em; vertical-align: middle"></progress>'
        self._bars[name] = f"{bar} {share:.0%} &nbsp; {prefix}{html.escape(text)}"
        self._update(force=force)

    def _update(self, *, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self._last < EVERY:
            return
        self._last = now
        display = import_module("IPython.display")
        lines = [html.escape(note) for note in self._notes] + list(self._bars.values())
        text = "".join(f"<div>{line}</div>" for line in lines)
        content = display.HTML(f'<div style="font-family: monospace; font-size: 0.9em">{text}{self._preview}</div>')
        if self._handle is None:
            self._handle = display.display(content, display_id=True)
        else:
            self._handle.update(content)


def _preview(step: Step) -> str:
    """The best images so far."""
    from noiseward.images import has_images, to_images

    if not has_images(step.best.sample):
        return ""
    images = to_images(step.best.sample[:8])
    return f"<div>{''.join(draw_image(image) for image in images)}</div>"
