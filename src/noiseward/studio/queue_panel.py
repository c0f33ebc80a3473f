"""The queue above the tabs: what is being done, what waits, and how to change that."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import draw_note
from noiseward.studio.jobs import Job
from noiseward.studio.part import Part
from noiseward.studio.words import KINDS

__all__ = ["QueuePanel"]

SHOWN = 12  # jobs that are listed
LIST = """${(value || []).length ? `<ol class="nw-queue" aria-label="Queue">${value.map((job) => `
<li data-id="${job.id}">
<span class="nw-state nw-${job.state}">${job.place}</span> <b>${job.name}</b> <span class="nw-small">${job.kind}</span>
<span class="nw-acts">
${job.opens ? '<button type="button" class="nw-act" data-do="show">Show</button>' : ''}
${job.up ? '<button type="button" class="nw-act" data-do="up">Earlier</button>' : ''}
${job.down ? '<button type="button" class="nw-act" data-do="down">Later</button>' : ''}
<button type="button" class="nw-act" data-do="cancel">${job.state === 'running' ? 'Stop' : 'Remove'}</button>
</span></li>`).join('')}</ol>` : ''}"""
CLICKS = """
let last = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('.nw-act');
  if (!button) return;
  last = {id: button.closest('li').dataset.id, what: button.dataset.do};
  trigger('click', last);
});
watch('value', () => {
  if (!last) return;
  const had = document.activeElement, at = element.querySelector(`[data-id="${last.id}"]`);
  if (at && (had === document.body || element.contains(had)))
    (at.querySelector(`[data-do=${last.what}]`) || at.querySelector('.nw-act')).focus();
  last = null;
});
"""


class QueuePanel:
    """The jobs that are running or waiting.

    Arguments:
        desk: whose jobs.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def show(self) -> None:
        """Put the components on the page."""
        self.list = gr.HTML(value=[], html_template=LIST, js_on_load=CLICKS, elem_id="queue", apply_default_css=False)
        self.said = gr.HTML("", elem_id="queue-said")

    def connect(self, tabs: gr.Tabs) -> None:
        """Say what happens.

        Arguments:
            tabs: of the page.
        """
        self.list.click(self._act, None, [tabs, self.said], show_progress="hidden", api_visibility="private")

    @property
    def parts(self) -> list[Part]:
        """What changes by itself."""
        return [Part([self.list], self._poll)]

    def _poll(self, view: View) -> list[Any] | None:
        """What the list shows; None if nothing has changed."""
        version = self.desk.jobs.version
        if view.seen.get("queue") == version:
            return None
        view.seen["queue"] = version
        jobs = self.desk.jobs.list_open()
        waiting = [job for job in jobs if job.state == "waiting"]
        return [[self._row(job, waiting) for job in jobs[:SHOWN]]]

    def _row(self, job: Job, waiting: list[Job]) -> dict[str, Any]:
        place = waiting.index(job) if job in waiting else -1
        return {
            "id": job.id,
            "state": job.state,
            "place": "running" if place < 0 else f"waiting, number {place + 1}",
            "name": html.escape(job.out.name),
            "kind": KINDS.get(job.kind, job.kind),
            "opens": job.kind in ("run", "look", "command"),
            "up": place > 0,
            "down": 0 <= place < len(waiting) - 1,
        }

    def _act(self, request: gr.Request, event: gr.EventData) -> tuple[Any, str]:
        what, id = str(event._data.get("what")), str(event._data.get("id"))
        job = next((one for one in self.desk.jobs.list_open() if one.id == id), None)
        if job is None:
            return gr.skip(), draw_note("that has ended by now")
        name = job.out.name
        if what == "show":
            return gr.Tabs(selected=self.desk.show(request.session_hash, job.out)), ""
        if what in ("up", "down"):
            moved = self.desk.jobs.move(id, -1 if what == "up" else 1)
            return gr.skip(), draw_note(f"{name} comes {'earlier' if what == 'up' else 'later'} now" if moved else "")
        was_running = job.state == "running"
        self.desk.jobs.cancel(id)
        return gr.skip(), draw_note(f"{name} is being stopped" if was_running else f"{name} was removed from the queue")
