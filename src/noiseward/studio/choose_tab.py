"""The tab in which a person is the reward: images that vary a noise, chosen look by look."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.options.run import RunSpec, shorten_to_slug
from noiseward.studio.create_tab import list_choices
from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import draw_empty, draw_error, draw_note, to_address
from noiseward.studio.forms import Form, make_field
from noiseward.studio.jobs import Job
from noiseward.studio.part import Part
from noiseward.studio.prompt_note import PromptNote
from noiseward.studio.session import Session

__all__ = ["ChooseTab"]

EMPTY = "Write a prompt and press Begin: you see variations, and the next ones follow what you like."
FIRST = "After your first answer, the image that you should like best is here."
DRAWN = "It is drawn after the others of this look."
MODES = {"Like": "click the ones you like", "Rank": "click them from best to worst", "Rate": "click for stars, 1 to 5"}
TILES = """
<div class="nw-tiles">${(value || []).map((tile, i) => `<button type="button" class="nw-tile" data-i="${i}"
aria-pressed="${!!tile.score}" aria-label="image ${i + 1}">
${tile.src ? `<img src="${tile.src}" alt="variation ${i + 1}">` : '<div class="nw-wait" style="width:100%"></div>'}
${tile.mark ? `<span>${tile.mark}</span>` : ''}</button>`).join('')}</div>
"""
CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('.nw-tile');
  if (!button) return;
  const i = +button.dataset.i, mode = props.mode || 'Like', tiles = props.value.map((tile) => ({...tile}));
  if (!tiles[i].src) return;
  if (mode === 'Like') tiles[i].score = tiles[i].score ? 0 : 1;
  if (mode === 'Rate') tiles[i].score = ((tiles[i].score || 0) + 1) % 6;
  if (mode === 'Rank') {
    const was = tiles[i].order;
    if (was) tiles.forEach((tile) => { if (tile.order > was) tile.order -= 1; });
    tiles[i].order = was ? 0 : 1 + Math.max(0, ...tiles.map((tile) => tile.order || 0));
    tiles.forEach((tile) => { tile.score = tile.order ? tiles.length - tile.order + 1 : 0; });
  }
  tiles.forEach((tile) => { tile.mark = !tile.score ? '' : mode === 'Like' ? '\\u2665' : mode === 'Rank' ? tile.order
    : '\\u2605'.repeat(tile.score); });
  props.value = tiles;
});
"""


class ChooseTab:
    """Looks and answers.

    Arguments:
        desk: what it belongs to.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.form = Form(RunSpec, ["num_inference_steps", "seed"], prefix="choose")
        self.words = PromptNote("choose-note")

    def show(self) -> None:
        """Put the components on the page."""
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                self.prompt = gr.Textbox(label="Prompt", value="a duck", lines=2, elem_id="choose-prompt")
                self.words.show()
                self.model = make_field(RunSpec, "model", list_choices()["model"], prefix="choose")
                self.start = gr.Textbox(
                    label="Start from", placeholder="anywhere", elem_id="choose-start",
                    info="Empty: anything that the prompt allows. 'Vary it by choosing' below a frame fills this in.",
                )  # fmt: skip
                self.count = gr.Slider(4, 16, value=6, step=1, label="Images per look", elem_id="choose-count")
                self.begin = gr.Button("Begin", variant="primary", elem_id="begin-looks")
                self.begin_said = gr.HTML("", elem_id="begin-said")
                with gr.Accordion("More options", open=False, elem_id="choose-options"):
                    self.form.show_plainly()
            with gr.Column(scale=3, min_width=320):
                self.mode = gr.Radio(
                    list(MODES), value="Like", label="How you answer", info=MODES["Like"], elem_id="choose-mode"
                )
                self.note = gr.HTML(draw_empty(EMPTY), elem_id="look-note")
                self.tiles = gr.HTML(
                    value=[],
                    html_template=TILES,
                    js_on_load=CLICKS,
                    elem_id="tiles",
                    mode="Like",
                    apply_default_css=False,
                )
                with gr.Row():
                    self.next = gr.Button("Next look", variant="primary", elem_id="next-look", min_width=100)
                    self.none = gr.Button("None of these", elem_id="none-of-these", min_width=100)
                    self.undo = gr.Button("Undo", elem_id="undo-look", min_width=80)
                    self.keep = gr.Button("Take this to Create", elem_id="keep-look", min_width=120)
                self.said = gr.HTML("", elem_id="choose-said")
                self.spread = gr.Slider(
                    0.3, 3, value=1, step=0.1, label="Variation", elem_id="spread",
                    info="1 is what learns fastest; smaller for finer choices, larger for other ideas.",
                )  # fmt: skip
                with gr.Accordion("What you are expected to like best", open=True):
                    self.center = gr.HTML(draw_empty(FIRST), elem_id="look-center")

    def connect(self, start: gr.Textbox, prompt: gr.Textbox, tabs: gr.Tabs) -> None:
        """Say what happens.

        Arguments:
            start: the field of noise to start a run from.
            prompt: of a run.
            tabs: of the page.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        given = [self.prompt, self.model, self.start, self.count, *self.form.components]
        self.words.connect(self.prompt, self.model)
        self.begin.click(self._begin, given, self.begin_said, **quiet).then(
            None, None, None, js="() => noiseward.show('tiles', 'begin-said')", **quiet
        )
        self.next.click(self._next, [self.tiles, self.spread], self.said, **quiet)
        self.none.click(self._none, self.spread, self.said, **quiet)
        self.undo.click(self._undo, None, self.said, **quiet)
        self.mode.change(
            lambda mode: (gr.HTML(mode=mode), gr.Radio(info=MODES[mode])), self.mode, [self.tiles, self.mode], **quiet
        )
        self.keep.click(self._keep, self.tiles, [start, prompt, tabs, self.said], **quiet)

    @property
    def parts(self) -> list[Part]:
        """What changes by itself."""
        return [Part([self.tiles, self.note, self.center], self._poll)]

    def _poll(self, view: View) -> list[Any] | None:
        """What has changed of the looks of a page; None if nothing."""
        if view.session is None:
            return None
        try:
            session = Session.read(view.session)
        except NoisewardError:
            return None
        job = self.desk.jobs.find(view.session)
        shown = session.looks[-1] if session.looks else None
        if shown is None:
            return None
        files = [session.image(shown.number, row) for row in range(session.count + 1)]
        there = tuple(file.exists() for file in files)
        error = job.error if job else None
        state = (view.session, shown.number, len(session.looks), there, error, job.state if job else None)
        if view.seen.get("session") == state:
            return None
        before, view.seen["session"] = view.seen.get("session"), state
        if before and before[:2] == state[:2] and all(before[3][: session.count]) and before[4] == error:
            tiles: Any = gr.skip()  # what was clicked stays
        else:
            tiles = [
                {"src": to_address(self.desk.places, file) if exists else "", "score": 0, "mark": ""}
                for file, exists in zip(files[: session.count], there, strict=False)
            ]
        return [tiles, self._describe(session, job, all(there[:-1])), self._draw_center(session, there, files[-1])]

    def _describe(self, session: Session, job: Job | None, is_drawn: bool) -> str:
        """Which look it is, and whether its images are there, or why not."""
        if job is not None and job.error:
            return draw_error(NoisewardError(job.error))
        answered = sum(look.scores is not None for look in session.looks)
        what = "" if is_drawn else "its images are being drawn"
        if job is not None and job.state == "waiting":
            what = "it waits in the queue at the top of the page"
        elif not is_drawn and (job is None or not job.is_open):
            what = "it was stopped; press Begin for another"
        remarks = "".join(f'<p class="nw-note">{html.escape(remark)}</p>' for remark in (job.remarks if job else ()))
        words = f"look {answered + 1} of {html.escape(session.path.name)}" + (f": {what}" if what else "")
        return f'<div class="nw-small" role="status" data-looks="{answered}">{words}</div>{remarks}'

    def _draw_center(self, session: Session, there: tuple[bool, ...], file: Path) -> str:
        if not there[-1]:
            return draw_empty(DRAWN if any(look.scores is not None for look in session.looks) else FIRST)
        address = to_address(self.desk.places, file)
        return (
            f'<div class="nw-row"><figure><img src="{address}" alt="what you are expected to like best"></figure></div>'
        )

    def _session(self, request: gr.Request) -> Session:
        path = self.desk.view(request.session_hash).session
        if path is None:
            raise ArgumentError("there is nothing to choose from yet; press Begin")
        return Session.read(path)

    def _draw(self, session: Session) -> None:
        session.write()
        self.desk.jobs.submit("look", session.path)

    def _begin(self, request: gr.Request, prompt: str, model: str, start: str, count: float, *options: Any) -> str:
        given = {"prompt": prompt.strip(), "model": model, "start": (start or "").strip(), **self.form.read(options)}
        values = {"reward": ("brightness",), **{name: value for name, value in given.items() if value}}
        try:
            spec = self.desk.read_spec(values)
            path = self.desk.fresh(shorten_to_slug(f"{prompt} chosen"))
            self._draw(Session(path, spec, int(count)).look())
        except NoisewardError as error:
            return draw_error(error)
        self.desk.view(request.session_hash).session = path
        return ""

    def _next(self, tiles: list[dict[str, Any]], spread: float, request: gr.Request) -> str:
        try:
            session = self._session(request)
            if not tiles or not all(tile.get("src") for tile in tiles):
                raise ArgumentError("wait until all images are there")
            scores = [float(tile.get("score") or 0) for tile in tiles]
            if not any(scores):
                raise ArgumentError("click at least one image, or press None of these")
            self._draw(session.answer(scores).look(spread))
        except NoisewardError as error:
            return draw_error(error)
        return ""

    def _none(self, spread: float, request: gr.Request) -> str:
        try:
            session = self._session(request)
            self._draw(session.answer([0.0] * session.count).look(spread))
        except NoisewardError as error:
            return draw_error(error)
        return ""

    def _undo(self, request: gr.Request) -> str:
        try:
            session = self._session(request)
        except NoisewardError as error:
            return draw_error(error)
        if not any(look.scores is not None for look in session.looks):
            return draw_note("this is the first look: there is no answer to take back")
        session.undo().write()
        self.desk.view(request.session_hash).seen.pop("session", None)
        return draw_note("your last answer was taken back: answer again")

    def _keep(self, tiles: list[dict[str, Any]], request: gr.Request) -> tuple[Any, Any, Any, str]:
        """Take the image that is liked best, or the center where none is clicked, to the tab of runs."""
        try:
            session = self._session(request)
            shown = session.looks[-1]
            scores = [float(tile.get("score") or 0) for tile in tiles]
            row = scores.index(max(scores)) if any(scores) else session.count
            file = session.path / "looks" / f"{shown.number:03d}.safetensors"
            if not file.exists() or not session.image(shown.number, row).exists():
                raise ArgumentError("click an image first")
        except NoisewardError as error:
            return gr.skip(), gr.skip(), gr.skip(), draw_error(error)
        return f"{file}:{row}", "\n".join(session.spec.prompt), gr.Tabs(selected="create"), ""
