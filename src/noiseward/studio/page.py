"""The page: its tabs, and the streams that keep every open page up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.studio.api import add_api
from noiseward.studio.choose_tab import ChooseTab
from noiseward.studio.create_tab import CreateTab
from noiseward.studio.desk import VIEWS, Desk
from noiseward.studio.many_tab import ManyTab
from noiseward.studio.part import Part
from noiseward.studio.queue_panel import QueuePanel
from noiseward.studio.rewards_tab import RewardsTab
from noiseward.studio.runs_tab import RunsTab

__all__ = ["CSS", "JS", "build_page", "make_theme"]

CSS, JS = Path(__file__).with_name("style.css"), Path(__file__).with_name("page.js")
EVERY = 0.1  # seconds between two looks at what changed


def make_theme() -> gr.themes.Base:
    """The colors: small print dark enough to read, by the contrast of 4.5 to 1 that accessibility asks for."""
    return gr.themes.Default().set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600", button_primary_background_fill_hover_dark="*primary_700",
    )  # fmt: skip


def build_page(desk: Desk) -> gr.Blocks:
    """The page of a desk."""
    create, choose, runs = CreateTab(desk), ChooseTab(desk), RunsTab(desk)
    queue = QueuePanel(desk)
    many, rewards = ManyTab(desk, create), RewardsTab(desk)
    with gr.Blocks(title="Noiseward Studio", analytics_enabled=False) as page:
        gr.Markdown("### Noiseward Studio", elem_id="title")
        queue.show()
        with gr.Tabs(selected="create") as tabs:
            with gr.Tab("Create", id="create"):
                create.show()
            with gr.Tab("You choose", id="choose"):
                choose.show()
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs.show()
            with gr.Tab("Many", id="many") as many_tab:
                many.show()
            with gr.Tab("Rewards", id="rewards"):
                rewards.show()
        queue.connect(tabs)
        create.connect()
        create.view.connect(create.origin, choose.start, tabs)
        choose.connect(create.origin, create.prompt, tabs)
        runs.connect(tabs, runs_tab)
        many.connect(many_tab)
        rewards.connect(create.reward)
        add_api(desk)
        parts = [*queue.parts, *create.view.parts, *choose.parts, *many.parts, *runs.parts]
        for part in parts:
            _stream(page, desk, part)

        def forget(request: gr.Request) -> None:
            desk.forget(request.session_hash)
            _drop_session(request)

        page.unload(forget)
    page.max_threads = VIEWS * len(parts)  # a stream holds one of Gradio's 40 places as long as its page is open
    return page.queue()


def _stream(page: gr.Blocks, desk: Desk, part: Part) -> None:
    """Keep a part up to date on every page that is open."""

    async def stream(request: gr.Request) -> AsyncIterator[Any]:
        view = desk.view(request.session_hash)
        while view.is_open:
            if (found := part.poll(view)) is not None:
                yield found if len(found) > 1 else found[0]
            await asyncio.sleep(EVERY)

    page.load(stream, None, part.outputs, show_progress="hidden", concurrency_limit=None, api_visibility="private")


def _drop_session(request: gr.Request) -> None:
    """Let go of what Gradio keeps of a page that was closed, half a megabyte, which it would keep for an hour."""
    holder = getattr(getattr(request.request, "app", None), "state_holder", None)
    sessions = getattr(holder, "session_data", None)
    if sessions is not None:
        sessions.pop(request.session_hash, None)
