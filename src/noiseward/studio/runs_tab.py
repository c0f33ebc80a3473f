"""The tab of all runs: find, open, compare, tag, export, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import NoisewardError
from noiseward.studio.create_tab import say_error
from noiseward.studio.desk import Desk
from noiseward.studio.draw import draw_card, draw_empty, draw_plot, draw_run, to_address
from noiseward.studio.gallery import SORTS, STATES, Entry, Gallery

__all__ = ["RunsTab"]

EMPTY = "No runs yet: the tab Create begins one. What you choose, batches and comparisons appear here, too."
CARDS = '<div class="nw-cards" id="cards">${value}</div>'
CLICKS = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('.nw-card');
  if (!card) return;
  card.setAttribute('aria-pressed', card.getAttribute('aria-pressed') === 'true' ? 'false' : 'true');
  props.chosen = [...element.querySelectorAll('.nw-card[aria-pressed=true]')].map((one) => one.dataset.name);
  trigger('input');
});
element.addEventListener('dblclick', (event) => {
  const card = event.target.closest('.nw-card');
  if (card) { props.chosen = [card.dataset.name]; trigger('submit'); }
});
"""
CHOSEN = """
() => [...document.querySelectorAll('#cards .nw-card[aria-pressed=true]')].map((one) => one.dataset.name).join(', ')
"""
SHOWN = 200  # cards at most


class RunsTab:
    """The gallery.

    Arguments:
        desk: what it belongs to.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk, self.gallery = desk, Gallery(desk.places, desk.jobs)

    def show(self) -> None:
        """Put the components on the page."""
        with gr.Row():
            self.text = gr.Textbox(
                label="Find", placeholder="a word of name, prompt, reward or tag", elem_id="find-runs"
            )
            self.state = gr.Dropdown(list(STATES), value="any", label="State", elem_id="runs-state")
            self.sort = gr.Dropdown(list(SORTS), value="newest", label="Sort by", elem_id="runs-sort")
        self.cards = gr.HTML(
            draw_empty(EMPTY),
            html_template=CARDS,
            js_on_load=CLICKS,
            elem_id="gallery",
            chosen=[],
            apply_default_css=False,
        )
        self.chosen = gr.Textbox(label="Chosen", info="Click cards, or write names with commas.", elem_id="chosen")
        with gr.Row():
            self.open = gr.Button("Open", elem_id="open-run", min_width=80)
            self.compare = gr.Button("Compare", elem_id="compare-runs", min_width=80)
            self.resume = gr.Button("Resume", elem_id="resume-chosen", min_width=80)
            self.export = gr.Button("Export as a page", elem_id="export-run", min_width=120)
            self.delete = gr.Button("Delete", elem_id="delete-runs", min_width=80)
            self.restore = gr.Button("Undo delete", elem_id="restore-runs", min_width=80)
        with gr.Row():
            self.tags = gr.Textbox(label="Tags", placeholder="with commas", scale=3, elem_id="tags")
            self.tag = gr.Button("Tag", elem_id="tag-runs", min_width=80)
        self.said = gr.HTML("", elem_id="runs-said")
        self.shown = gr.HTML("", elem_id="compared")

    def connect(self, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Say what happens.

        Arguments:
            tabs: of the page.
            tab: this one.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        filters = [self.text, self.state, self.sort]
        for event in (tab.select, self.text.change, self.state.change, self.sort.change):
            event(self._list, filters, self.cards, **quiet)
        self.cards.input(None, self.cards, self.chosen, js=CHOSEN, **quiet)
        self.open.click(self._open, self.chosen, [tabs, self.said], **quiet)
        self.compare.click(self._compare, self.chosen, [self.shown, self.said], **quiet)
        self.resume.click(self._resume, self.chosen, [tabs, self.said], **quiet)
        self.export.click(self._export, self.chosen, self.said, **quiet)
        for button, do in ((self.delete, self._delete), (self.restore, self._restore)):
            button.click(do, self.chosen, self.said, **quiet).then(self._list, filters, self.cards, **quiet)
        self.tag.click(self._tag, [self.chosen, self.tags], self.said, **quiet).then(
            self._list, filters, self.cards, **quiet
        )

    def _list(self, text: str, state: str, sort: str) -> str:
        entries = self.gallery.list(text=text or "", state=state, sort=sort)
        if not entries:
            return draw_empty(EMPTY if not text and state == "any" else "No run is like that.")
        more = f'<p class="nw-small">{len(entries) - SHOWN} more</p>' if len(entries) > SHOWN else ""
        return "".join(self._card(entry) for entry in entries[:SHOWN]) + more

    def _card(self, entry: Entry) -> str:
        image = None if entry.image is None else to_address(self.desk.places, entry.image, int(entry.changed))
        return draw_card(entry.path.name, image, entry.lines, tags=entry.tags)

    def _paths(self, chosen: str) -> list[Path]:
        names = [name.strip() for name in (chosen or "").split(",") if name.strip()]
        if not names:
            raise NoisewardError("choose a run first: click its card")
        return [self.desk.places.find(name) for name in names]

    def _open(self, chosen: str, request: gr.Request) -> tuple[Any, str]:
        try:
            path = self._paths(chosen)[0]
        except NoisewardError as error:
            return gr.skip(), say_error(error)
        view = self.desk.view(request.session_hash)
        if (path / "session.json").exists():
            view.session = path
            return gr.Tabs(selected="choose"), ""
        if (path / "batch.json").exists():
            view.sweep = path
            return gr.Tabs(selected="many"), ""
        view.run = path
        return gr.Tabs(selected="create"), ""

    def _compare(self, chosen: str) -> tuple[str, str]:
        try:
            paths = self._paths(chosen)
            if len(paths) < 2:
                raise NoisewardError("choose two runs or more to compare them")
        except NoisewardError as error:
            return "", say_error(error)
        found = [one for path in paths[:6] if (one := self.desk.watcher.look(path)).steps]
        if len(found) < 2:
            return "", say_error(NoisewardError("choose two runs that have steps; batches have a page of their own"))
        lines = {one.path.name: [max(step["reward"]) for step in one.steps] for one in found}
        longest = max((len(line) for line in lines.values()), default=0)
        padded = {name: [*line, *[None] * (longest - len(line))] for name, line in lines.items()}
        plot = draw_plot("Reward, the best row of each", range(longest), padded)
        columns = "".join(f'<div style="flex:1 1 320px">{draw_run(one, self.desk.places)}</div>' for one in found)
        return f'{plot}<div style="display:flex;flex-wrap:wrap;gap:1rem">{columns}</div>', ""

    def _resume(self, chosen: str, request: gr.Request) -> tuple[Any, str]:
        try:
            paths = self._paths(chosen)
            for path in paths:
                if (path / "spec.json").exists():
                    self.desk.resume(path)
        except NoisewardError as error:
            return gr.skip(), say_error(error)
        self.desk.view(request.session_hash).run = paths[0]
        return gr.Tabs(selected="create"), ""

    def _export(self, chosen: str) -> str:
        try:
            path = self._paths(chosen)[0]
            page = path / "page.html"
            job = self.desk.jobs.submit("command", path, arguments=["export", str(path), "--html", str(page)])
            self.desk.jobs.wait(job, 60)
            if not page.exists():
                raise NoisewardError(job.error or "it is waiting for its turn; try again when nothing runs")
        except NoisewardError as error:
            return say_error(error)
        return f'<a href="{to_address(self.desk.places, page)}" target="_blank">the page of {path.name}</a>'

    def _delete(self, chosen: str) -> str:
        try:
            count = self.gallery.delete([path.name for path in self._paths(chosen)])
        except NoisewardError as error:
            return say_error(error)
        return f'<span class="nw-small">{count} put into the trash; Undo delete brings them back</span>'

    def _restore(self, chosen: str) -> str:
        names = self.gallery.restore()
        return f'<span class="nw-small">{", ".join(names) if names else "the trash is empty"}</span>'

    def _tag(self, chosen: str, tags: str) -> str:
        try:
            self.gallery.tag([path.name for path in self._paths(chosen)], (tags or "").split(","))
        except NoisewardError as error:
            return say_error(error)
        return ""
