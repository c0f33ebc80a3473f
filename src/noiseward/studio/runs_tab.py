"""The tab of all runs: find, open, compare, tag, export, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import NoisewardError
from noiseward.rewards.shortfall import met_reward
from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import (
    draw_card,
    draw_empty,
    draw_error,
    draw_note,
    draw_plot,
    draw_plots,
    draw_run,
    to_address,
)
from noiseward.studio.gallery import SORTS, STATES, Entry, Gallery
from noiseward.studio.live import Snapshot
from noiseward.studio.part import Part

__all__ = ["RunsTab"]

EMPTY = "No runs yet: the tab Create begins one. What you choose, batches and comparisons appear here, too."
CARDS = '<div class="nw-cards" id="cards">${value}</div>'
CLICKS = """
let last = null;
element.addEventListener('click', (event) => {
  const card = event.target.closest('.nw-card');
  if (!card) return;
  last = card.dataset.name;
  card.setAttribute('aria-pressed', card.getAttribute('aria-pressed') === 'true' ? 'false' : 'true');
  trigger('input');
});
element.addEventListener('dblclick', (event) => {
  const card = event.target.closest('.nw-card');
  if (card) trigger('click', {name: card.dataset.name});
});
watch('value', () => {
  const card = last && document.activeElement === document.body && element.querySelector(`[data-name="${last}"]`);
  if (card) card.focus({preventScroll: true});
});
"""
CHOSEN = """
() => [...document.querySelectorAll('#cards .nw-card[aria-pressed=true]')].map((one) => one.dataset.name).join(', ')
"""
SHOWN = 200  # cards at most
COMPARED = 6  # runs next to each other at most


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
            self.sort = gr.Dropdown(list(SORTS.items()), value="newest", label="Sort by", elem_id="runs-sort")
        with gr.Column(elem_id="runs-bar"):
            with gr.Row():
                self.chosen = gr.Textbox(
                    label="Chosen", placeholder="click images below to choose them", scale=3, elem_id="chosen",
                )  # fmt: skip
                self.tags = gr.Textbox(label="Tags", placeholder="your own words, with commas", scale=2, elem_id="tags")
            with gr.Row():
                self.open = gr.Button("Open", variant="primary", size="md", elem_id="open-run", min_width=80)
                self.compare = gr.Button("Compare", size="md", elem_id="compare-runs", min_width=80)
                self.resume = gr.Button("Resume", size="md", elem_id="resume-chosen", min_width=80)
                self.export = gr.Button("Export as a page", size="md", elem_id="export-run", min_width=130)
                self.tag = gr.Button("Set tags", size="md", elem_id="tag-runs", min_width=80)
                self.delete = gr.Button("Delete", size="md", elem_id="delete-runs", min_width=80)
                self.restore = gr.Button("Undo delete", size="md", elem_id="restore-runs", min_width=100)
            self.said = gr.HTML("", elem_id="runs-said")
        with gr.Column(visible=False, elem_id="comparison") as self.comparison:
            self.close = gr.Button("Close the comparison", size="sm", elem_id="close-comparison")
            self.shown = gr.HTML("", elem_id="compared")
        self.cards = gr.HTML(
            draw_empty(EMPTY), html_template=CARDS, js_on_load=CLICKS, elem_id="gallery", apply_default_css=False
        )
        self.pulse = gr.State(0)

    def connect(self, tabs: gr.Tabs, tab: gr.Tab) -> None:
        """Say what happens.

        Arguments:
            tabs: of the page.
            tab: this one.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        filters, shown = [self.text, self.state, self.sort, self.chosen], [self.cards, self.chosen]
        for event in (tab.select, self.text.change, self.state.change, self.sort.change, self.pulse.change):
            event(self._list, filters, shown, trigger_mode="always_last", **quiet)
        self.cards.input(None, self.cards, self.chosen, js=CHOSEN, **quiet)
        self.cards.click(self._open_one, None, [tabs, self.said], **quiet)
        self.open.click(self._open, self.chosen, [tabs, self.said], **quiet)
        compared = [self.comparison, self.shown, self.said]
        self.compare.click(self._compare, self.chosen, compared, **quiet).then(
            None, None, None, js="() => noiseward.show('comparison', 'runs-said')", **quiet
        )
        self.close.click(lambda: (gr.update(visible=False), "", ""), None, compared, **quiet)
        self.resume.click(self._resume, self.chosen, [tabs, self.said], **quiet)
        self.export.click(self._export, self.chosen, self.said, **quiet)
        self.delete.click(self._delete, self.chosen, compared, **quiet).then(self._list, filters, shown, **quiet)
        self.restore.click(self._restore, None, self.said, **quiet).then(self._list, filters, shown, **quiet)
        self.tag.click(self._tag, [self.chosen, self.tags], self.said, **quiet).then(
            self._list, filters, shown, **quiet
        )

    @property
    def parts(self) -> list[Part]:
        """What changes by itself."""
        return [Part([self.pulse], self._poll)]

    def _poll(self, view: View) -> list[Any] | None:
        """A number that changes when a job begins or ends, for the cards to be listed again; None if it is the same."""
        version = self.desk.jobs.version
        if view.seen.get("gallery") == version:
            return None
        view.seen["gallery"] = version
        return [version]

    def _list(self, text: str, state: str, sort: str, chosen: str) -> tuple[str, str]:
        """The cards, and which of those that were chosen are still there."""
        every = self.gallery.list(text=text or "", state=state, sort=sort)
        before = _names(chosen)
        there = [name for name in before if (self.desk.places.runs / name).is_dir()]
        if not every:
            return draw_empty(EMPTY if not text and state == "any" else "No run is like that."), ", ".join(there)
        more = f'<p class="nw-small">{len(every) - SHOWN} more: find them by a word</p>' if len(every) > SHOWN else ""
        return "".join(self._card(entry, set(there)) for entry in every[:SHOWN]) + more, ", ".join(there)

    def _card(self, entry: Entry, chosen: set[str]) -> str:
        image = None if entry.image is None else to_address(self.desk.places, entry.image, int(entry.changed))
        name = entry.path.name
        return draw_card(name, image, entry.lines, chosen=name in chosen, tags=entry.tags)

    def _paths(self, chosen: str) -> list[Path]:
        names = _names(chosen)
        if not names:
            raise NoisewardError("choose a run first: click its image")
        return [self.desk.places.find(name) for name in names]

    def _open(self, chosen: str, request: gr.Request) -> tuple[Any, str]:
        try:
            path = self._paths(chosen)[0]
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        return gr.Tabs(selected=self.desk.show(request.session_hash, path)), ""

    def _open_one(self, request: gr.Request, event: gr.EventData) -> tuple[Any, str]:
        return self._open(str(event._data.get("name")), request)

    def _compare(self, chosen: str) -> tuple[Any, str, str]:
        try:
            paths = self._paths(chosen)
            if len(paths) < 2:
                raise NoisewardError("choose two runs or more to compare them")
            found = [one for path in paths[:COMPARED] if (one := self.desk.watcher.look(path)).steps]
            if len(found) < 2:
                raise NoisewardError("choose two runs that have steps; batches have a page of their own")
        except NoisewardError as error:
            return gr.update(visible=False), "", draw_error(error)
        names = " and ".join(one.path.name for one in found)
        return gr.update(visible=True), self._draw_compared(found), draw_note(f"below: {names}")

    def _draw_compared(self, found: list[Snapshot]) -> str:
        """Runs next to each other with their plots, below one plot of all their rewards."""
        lines = {one.path.name: [met_reward(max(step["reward"])) for step in one.steps] for one in found}
        longest = max((len(line) for line in lines.values()), default=0)
        padded = {name: [*line, *[None] * (longest - len(line))] for name, line in lines.items()}
        plot = draw_plot("Reward of each run, of its best image at a step", range(longest), padded, legend=True)
        columns = "".join(
            f"<div>{draw_run(one, self.desk.places)}<details><summary>Plots</summary>{draw_plots(one)}</details></div>"
            for one in found
        )
        return f'{plot}<div class="nw-columns">{columns}</div>'

    def _resume(self, chosen: str, request: gr.Request) -> tuple[Any, str]:
        try:
            runs = [path for path in self._paths(chosen) if (path / "spec.json").exists()]
            if not runs:
                raise NoisewardError("choose a run: only runs can be resumed, batches are continued by their command")
            for path in runs:
                self.desk.resume(path)
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        return gr.Tabs(selected=self.desk.show(request.session_hash, runs[0])), draw_note(self.desk.place(runs[0]))

    def _export(self, chosen: str) -> str:
        try:
            path = self._paths(chosen)[0]
            page = path / "page.html"
            job = self.desk.jobs.submit("command", path, arguments=["export", str(path), "--html", str(page)])
            self.desk.jobs.wait(job, 60)
            if not page.exists():
                raise NoisewardError(job.error or "it is waiting for its turn; try again when nothing runs")
        except NoisewardError as error:
            return draw_error(error)
        return f'<a href="{to_address(self.desk.places, page)}" target="_blank">the page of {path.name}</a>'

    def _delete(self, chosen: str) -> tuple[Any, Any, str]:
        """Put runs into the trash, and close the comparison, which may be of them."""
        try:
            paths = self._paths(chosen)
            self.gallery.delete([path.name for path in paths])
        except NoisewardError as error:
            return gr.skip(), gr.skip(), draw_error(error)
        names, them = ", ".join(path.name for path in paths), "them" if len(paths) > 1 else "it"
        said = draw_note(f"put into the trash: {names}. Undo delete brings {them} back.")
        return gr.update(visible=False), "", said

    def _restore(self) -> str:
        names = self.gallery.restore()
        return draw_note(f"brought back: {', '.join(names)}" if names else "the trash is empty")

    def _tag(self, chosen: str, tags: str) -> str:
        try:
            names = [path.name for path in self._paths(chosen)]
            self.gallery.tag(names, (tags or "").split(","))
        except NoisewardError as error:
            return draw_error(error)
        return draw_note(f"tagged: {', '.join(names)}" if (tags or "").strip() else f"no tags now: {', '.join(names)}")


def _names(chosen: str | None) -> list[str]:
    """The names of a text that has commas between them.

    Example:
        >>> _names("a, b,")
        ['a', 'b']
    """
    return [name.strip() for name in (chosen or "").split(",") if name.strip()]
