"""The run that a page looks at: live images and numbers, its frames, and what to do next with it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.options.command_line import to_command
from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import draw_empty, draw_error, draw_frame, draw_note, draw_plots, draw_run
from noiseward.studio.forms import make_command
from noiseward.studio.live import Snapshot
from noiseward.studio.part import Part
from noiseward.studio.words import NUMBERS

__all__ = ["RunView"]

DRAWN = 16  # runs whose drawing is kept
EMPTY = "Nothing yet: write a prompt, choose a reward, and press Start."
NO_FRAMES = "No frames yet: each step leaves one here, to look at and to go back to."
NO_PAIR = "When the run has ended, wipe here between its first image and its best."


class RunView:
    """The panel of one run.

    Arguments:
        desk: what it belongs to.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._drawn: dict[Path, tuple[Snapshot, tuple[str, str]]] = {}

    def show(self) -> None:
        """Put the components on the page."""
        self.panel = gr.HTML(draw_empty(EMPTY), elem_id="run")
        with gr.Row():
            self.pause = gr.Button("Pause", interactive=False, elem_id="pause-run", min_width=80)
            self.resume = gr.Button("Resume", interactive=False, elem_id="resume-run", min_width=80)
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop-run", min_width=80)
            self.more = gr.Button("20 more steps", interactive=False, elem_id="more-steps", min_width=80)
        self.said = gr.HTML("", elem_id="run-said")
        self.plots = gr.HTML("", elem_id="plots")
        with gr.Accordion("What the numbers mean", open=False, elem_id="meanings"):
            gr.Markdown("\n".join(f"* **{name}**: {meaning}" for name, meaning in NUMBERS.items()))
        self.row = gr.Dropdown(
            [("", 0)], value=0, label="Which image", info="For the sections below.", visible=False, elem_id="row"
        )
        with gr.Accordion("Frames along the way", open=False, elem_id="frames"):
            self.slider = gr.Slider(0, 1, value=0, step=1, label="Frame", elem_id="frame")
            self.frame = gr.HTML(draw_empty(NO_FRAMES), elem_id="frame-image")
            with gr.Row():
                self.go_on = gr.Button("Continue from here", elem_id="continue-here", min_width=120)
                self.use = gr.Button("Start another reward from here", elem_id="use-start", min_width=120)
                self.vary = gr.Button("Vary it by choosing", elem_id="vary", min_width=120)
            self.frame_said = gr.HTML("", elem_id="frame-said")
        with gr.Accordion("Before and after", open=False, elem_id="wipe-section"):
            self.no_pair = gr.HTML(draw_empty(NO_PAIR), elem_id="no-pair")
            self.wipe = gr.ImageSlider(
                label="Start and best", type="filepath", interactive=False, visible=False, elem_id="wipe"
            )
            self.download = gr.DownloadButton("Download the best image", interactive=False, elem_id="download")
        with gr.Accordion("Render with more steps", open=False, elem_id="render-section"):
            with gr.Row():
                self.steps = gr.Number(
                    40, precision=0, minimum=1, label="Denoising steps", info="A multiple of the run's.",
                    elem_id="render-steps",
                )  # fmt: skip
                self.seeds = gr.Number(
                    0, precision=0, minimum=0, maximum=16, label="Relatives", elem_id="render-relatives",
                    info="How many images close to the best to render, too.",
                )  # fmt: skip
            self.render = gr.Button("Render", elem_id="render")
            self.render_said = gr.HTML("", elem_id="render-said")
            self.rendered = gr.Gallery(
                label="Rendered", columns=4, height="auto", elem_id="rendered", interactive=False, visible=False
            )
        self.command = make_command("command")

    def connect(self, start: gr.Textbox, choose_start: gr.Textbox, tabs: gr.Tabs) -> None:
        """Say what happens.

        Arguments:
            start: the field of noise to start a run from.
            choose_start: the same for looks.
            tabs: of the page.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.pause.click(self._pause, None, self.said, **quiet)
        self.stop.click(self._stop, None, self.said, **quiet)
        self.resume.click(self._resume, None, self.said, **quiet)
        self.more.click(self._more, None, self.said, **quiet)
        self.slider.change(self._frame, self.slider, self.frame, trigger_mode="always_last", queue=False, **quiet)
        self.row.input(self._choose_row, [self.row, self.slider], [self.frame, *self._pair], **quiet)
        self.go_on.click(self._continue, self.slider, self.frame_said, **quiet).then(
            None, None, None, js="() => noiseward.show('run', 'frame-said')", **quiet
        )
        self.use.click(self._name_start, self.slider, [start, self.frame_said], **quiet).then(
            None, None, None, js="() => noiseward.show('option-start', 'frame-said')", **quiet
        )
        self.vary.click(self._vary, self.slider, [choose_start, tabs, self.frame_said], **quiet)
        self.render.click(
            self._render, [self.steps, self.seeds], [self.rendered, self.render_said], api_visibility="private"
        )

    @property
    def _pair(self) -> list[Any]:
        return [self.no_pair, self.wipe, self.download]

    @property
    def parts(self) -> list[Part]:
        """What changes with every step, with every frame that is kept, and now and then."""
        frames = [self.slider, self.frame, self.go_on, self.use, self.vary]
        rest = [
            self.pause, self.resume, self.stop, self.more, self.command, self.row, *self._pair, self.rendered,
            self.said, self.frame_said, self.render_said,
        ]  # fmt: skip
        return [
            Part([self.panel, self.plots], self._poll_drawing),
            Part(frames, self._poll_frames),
            Part(rest, self._poll_rest),
        ]

    def _look(self, view: View, part: str) -> tuple[Snapshot, Snapshot | None] | None:
        """The run that a page looks at, and what a part of the page has shown of it; None if nothing has changed."""
        if view.run is None:
            return None
        found, seen = self.desk.watcher.look(view.run), view.seen.get(part)
        if found is seen:
            return None
        view.seen[part] = found
        return found, seen if seen is not None and seen.path == found.path else None

    def _poll_drawing(self, view: View) -> list[Any] | None:
        looked = self._look(view, "drawing")
        return None if looked is None else [*self._draw(looked[0])]

    def _poll_frames(self, view: View) -> list[Any] | None:
        """The slider, the frame and the buttons below it; the frame is its user's own while the run continues."""
        looked = self._look(view, "frames")
        if looked is None:
            return None
        found, before = looked
        if before is not None and before.frames == found.frames:
            return None
        last, some = max(len(found.frames) - 1, 1), bool(found.frames)
        if before is not None and before.frames and some:
            return [gr.update(maximum=last), *[gr.skip()] * 4]
        row = 0 if before is None else view.row
        frame = draw_frame(found, self.desk.places, found.frames[0], row) if some else draw_empty(NO_FRAMES)
        return [gr.update(value=0, maximum=last), frame, *[gr.update(interactive=some)] * 3]

    def _poll_rest(self, view: View) -> list[Any] | None:
        looked = self._look(view, "rest")
        if looked is None:
            return None
        found, before = looked
        is_new = before is None
        view.row = 0 if is_new else min(view.row, max(found.rows - 1, 0))
        if before is not None and (before.state, before.rows) == (found.state, found.rows):
            return None
        ended = not found.is_open and (before is None or before.is_open)
        command = to_command("noiseward", "resume", str(found.path)) if found.can_resume else self._command(found)
        return [
            gr.update(interactive=found.is_open),
            gr.update(interactive=found.can_resume),
            gr.update(interactive=found.is_open),
            gr.update(interactive=found.state in ("done", "interrupted", "paused")),
            gr.update(value=command, visible=bool(command)) if is_new or ended else gr.skip(),
            self._list_rows(found) if before is None or before.rows != found.rows else gr.skip(),
            *(self._show_pair(found, view.row) if is_new or ended else [gr.skip()] * len(self._pair)),
            gr.update(value=None, visible=False) if is_new else gr.skip(),
            "" if is_new or ended else gr.skip(),
            *(["", ""] if is_new else [gr.skip()] * 2),
        ]

    def _list_rows(self, found: Snapshot) -> Any:
        choices = [(found.title(row) or f"image {row + 1}", row) for row in range(max(found.rows, 1))]
        return gr.Dropdown(choices, value=0, visible=found.rows > 1)

    def _show_pair(self, found: Snapshot, row: int) -> list[Any]:
        """The wipe between start and best of a row, and what to download."""
        start, best = (str(found.path / which / f"{row:02d}.png") for which in ("initial", "best"))
        both = Path(start).exists() and Path(best).exists() and not found.is_open
        return [
            gr.update(visible=not both),
            gr.update(value=(start, best) if both else None, visible=both),
            gr.update(value=best if both else None, interactive=both),
        ]

    def _draw(self, found: Snapshot) -> tuple[str, str]:
        """Images and plots of a run, drawn once for all pages that look at it."""
        known = self._drawn.get(found.path)
        if known is None or known[0] is not found:
            while len(self._drawn) >= DRAWN:
                self._drawn.pop(next(iter(self._drawn)))
            known = self._drawn[found.path] = found, (draw_run(found, self.desk.places), draw_plots(found))
        return known[1]

    def _command(self, found: Snapshot) -> str:
        from noiseward.options.command_line import to_arguments

        if found.spec is None:
            return ""
        return to_command("noiseward", "align", *to_arguments(found.spec), "--out", str(found.path))

    def _pause(self, request: gr.Request) -> str:
        return self._end(request, pause=True)

    def _stop(self, request: gr.Request) -> str:
        return self._end(request, pause=False)

    def _end(self, request: gr.Request, *, pause: bool) -> str:
        found = self._snapshot(request)
        if found is None or not found.is_open:
            return ""
        self.desk.jobs.stop(found.path, pause=pause)
        if found.state == "waiting":
            return draw_note("taken out of the queue; Resume puts it back")
        return draw_note(f"{'pauses' if pause else 'stops'} after the step that it is doing")

    def _resume(self, request: gr.Request) -> str:
        return self._go_on(request)

    def _more(self, request: gr.Request) -> str:
        return self._go_on(request, steps="+20")

    def _go_on(self, request: gr.Request, **more: str) -> str:
        if (run := self.desk.view(request.session_hash).run) is None:
            return ""
        self.desk.resume(run, **more)
        return draw_note(self.desk.place(run))

    def _snapshot(self, request: gr.Request) -> Snapshot | None:
        run = self.desk.view(request.session_hash).run
        return None if run is None else self.desk.watcher.look(run)

    def _frame(self, at: float, request: gr.Request) -> str:
        found = self._snapshot(request)
        if found is None or not found.frames:
            return draw_empty(NO_FRAMES)
        row = self.desk.view(request.session_hash).row
        return draw_frame(found, self.desk.places, _index(found.frames, at), row)

    def _choose_row(self, row: float | None, at: float, request: gr.Request) -> list[Any]:
        view, found = self.desk.view(request.session_hash), self._snapshot(request)
        view.row = int(row or 0)
        pair = [gr.skip()] * len(self._pair) if found is None else self._show_pair(found, view.row)
        return [self._frame(at, request), *pair]

    def _place(self, at: float, request: gr.Request) -> tuple[Snapshot, int, str]:
        """The run, the row, and the frame as a place to start from.

        Raises:
            ArgumentError: there is no frame yet.
        """
        found = self._snapshot(request)
        if found is None or not found.frames:
            raise ArgumentError("there is no frame yet to start from; wait for the first step")
        row = self.desk.view(request.session_hash).row
        text = f"{found.path}@{_index(found.frames, at)}"
        return found, row, text if found.rows == 1 else f"{text}:{row}"

    def _continue(self, at: float, request: gr.Request) -> str:
        try:
            found, row, place = self._place(at, request)
            if found.spec is None:
                return ""
            values = {**found.spec.values(), "start": place, "method": None, "batch": 1}
            values["prompt"] = found.spec.prompt[row // found.spec.batch :][:1]
            run = self.desk.begin(self.desk.read_spec(values))
        except NoisewardError as error:
            return draw_error(error)
        self.desk.view(request.session_hash).run = run
        return draw_note(self.desk.place(run))

    def _name_start(self, at: float, request: gr.Request) -> tuple[Any, str]:
        try:
            place = self._place(at, request)[2]
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        return place, draw_note("The field Start from is filled in: choose another reward, then press Start.")

    def _vary(self, at: float, request: gr.Request) -> tuple[Any, Any, str]:
        try:
            place = self._place(at, request)[2]
        except NoisewardError as error:
            return gr.skip(), gr.skip(), draw_error(error)
        return place, gr.Tabs(selected="choose"), ""

    def _render(self, steps: float | None, seeds: float | None, request: gr.Request) -> tuple[Any, str]:
        found = self._snapshot(request)
        if found is None or found.is_open or not found.steps:
            return gr.skip(), draw_error(ArgumentError("wait until the run has ended, then render it"))
        count = int(steps or 1)
        changes, out = {"num_inference_steps": count}, found.path / "render" / f"steps-{count}"
        job = self.desk.jobs.submit("render", out, run=str(found.path), changes=changes, seeds=int(seeds or 0))
        self.desk.jobs.wait(job)
        if job.state != "done":
            return gr.skip(), draw_error(NoisewardError(job.error or "it was stopped"))
        files = zip(job.result["files"], job.result["rewards"], strict=True)
        shown = [(file, f"reward {reward:.3g}") for file, reward in files]
        return gr.update(value=shown, visible=True), draw_note(f"kept in {html.escape(out.name)} of the run")


def _index(frames: Sequence[int], at: float) -> int:
    """The step of a frame by its place."""
    return frames[min(int(at), len(frames) - 1)]
