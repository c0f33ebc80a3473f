"""What programs can ask of a studio, next to its page: begin a run, see how it is, stop and resume it.

from gradio_client import Client

studio = Client("http://127.0.0.1:7860/")
name = studio.predict("a duck", ["brightness"], {"steps": 5}, api_name="/align")
studio.predict(name, api_name="/status")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gradio as gr

from noiseward.errors import NoisewardError
from noiseward.studio.desk import Desk

__all__ = ["add_api"]


def add_api(desk: Desk) -> None:
    """Add the functions to the page that is being built."""

    def align(prompt: str, reward: list[str], options: dict) -> str:
        """Begin a run; returns its name. Options are those of `noiseward align`, with underscores."""
        with _as_error_of_the_page():
            values = {**options, "prompt": prompt or (), "reward": tuple(reward)}
            return desk.begin(desk.read_spec(values)).name

    def status(name: str) -> dict:
        """How a run is: its state, its step, and the reward of each row before and at best."""
        with _as_error_of_the_page():
            found = desk.watcher.look(_find(desk, name))
        rows = range(found.rows if found.steps else 0)
        plain: dict[str, Any] = {
            "state": found.state,
            "step": found.steps[-1]["index"] if found.steps else None,
            "before": [found.before(row) for row in rows],
            "best": [found.best(row)[0] for row in rows],
            "error": found.error,
        }
        return plain

    def stop(name: str) -> str:
        """Stop a run; it can be resumed."""
        with _as_error_of_the_page():
            desk.jobs.stop(_find(desk, name))
        return name

    def resume(name: str) -> str:
        """Resume a run."""
        with _as_error_of_the_page():
            desk.resume(_find(desk, name))
        return name

    for function in (align, status, stop, resume):
        gr.api(function, api_name=function.__name__)


@contextlib.contextmanager
def _as_error_of_the_page() -> Iterator[None]:
    """What is wrong with a request is said in the answer."""
    try:
        yield
    except NoisewardError as error:
        raise gr.Error(str(error)) from None


def _find(desk: Desk, name: str) -> Any:
    """A run that is there, or is waiting to begin."""
    known = next((job.out for job in desk.jobs.list_open() if job.out.name == name), None)
    return known if known is not None else desk.places.find(name)
