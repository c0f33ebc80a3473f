"""The page: its tabs, and the stream that keeps every open page up to date."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.studio.api import add_api
from noiseward.studio.choose_tab import ChooseTab
from noiseward.studio.create_tab import CreateTab
from noiseward.studio.desk import Desk
from noiseward.studio.many_tab import ManyTab
from noiseward.studio.rewards_tab import RewardsTab
from noiseward.studio.runs_tab import RunsTab

__all__ = ["CSS", "JS", "build_page"]

CSS, JS = Path(__file__).with_name("style.css"), Path(__file__).with_name("page.js")
EVERY = 0.1  # seconds between two looks at what changed


def build_page(desk: Desk) -> gr.Blocks:
    """The page of a desk."""
    create, choose, runs = CreateTab(desk), ChooseTab(desk), RunsTab(desk)
    many, rewards = ManyTab(desk, create), RewardsTab(desk)
    with gr.Blocks(title="Noiseward Studio", analytics_enabled=False) as page:
        gr.Markdown("### Noiseward Studio", elem_id="title")
        queue = gr.HTML("", elem_id="queue")
        with gr.Tabs(selected="create") as tabs:
            with gr.Tab("Create", id="create"):
                create.show()
            with gr.Tab("You choose", id="choose"):
                choose.show()
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs.show()
            with gr.Tab("Many", id="many"):
                many.show()
            with gr.Tab("Rewards", id="rewards"):
                rewards.show()
        create.connect()
        create.view.connect(create.origin, choose.start, tabs)
        choose.connect(create.origin, create.prompt, tabs)
        runs.connect(tabs, runs_tab)
        many.connect()
        rewards.connect(create.reward)
        add_api(desk)
        parts = [create.view, choose, many]

        async def stream(request: gr.Request) -> AsyncIterator[list[Any]]:
            view, waiting = desk.view(request.session_hash), None
            while True:
                found = [part.poll(view) for part in parts]
                version = desk.jobs.version
                if any(one is not None for one in found) or version != waiting:
                    waiting = version
                    updates = [
                        one if one is not None else [gr.skip()] * len(part.outputs)
                        for part, one in zip(parts, found, strict=True)
                    ]
                    yield [_draw_queue(desk), *(update for one in updates for update in one)]
                await asyncio.sleep(EVERY)

        outputs = [queue, *(output for part in parts for output in part.outputs)]
        page.load(stream, None, outputs, show_progress="hidden", concurrency_limit=None, api_visibility="private")

        def forget(request: gr.Request) -> None:
            desk.forget(request.session_hash)

        page.unload(forget)
    return page


def _draw_queue(desk: Desk) -> str:
    jobs = desk.jobs.list_open()
    if not jobs:
        return ""
    text = ", ".join(f"{job.out.name} ({job.state})" for job in jobs[:6])
    return f'<div class="nw-small" role="status">{len(jobs)} in the queue: {html.escape(text)}</div>'
