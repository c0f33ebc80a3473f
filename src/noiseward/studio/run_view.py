"""The run that a page looks at: live images and numbers, its frames, and what to do next with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import NoisewardError
from noiseward.options.command_line import to_command
from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import draw_empty, draw_frame, draw_plots, draw_run
from noiseward.studio.forms import make_command
from noiseward.studio.live import Snapshot

__all__ = ["RunView"]

DRAWN = 16  # runs whose drawing is kept
EMPTY = "Nothing yet: write a prompt, choose a reward, and press Start."


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
        self.plots = gr.HTML("", elem_id="plots")
        self.command = make_command("command")
        with gr.Accordion("Frames along the way", open=False, elem_id="frames"):
            self.slider = gr.Slider(0, 1, value=0, step=1, label="Frame", elem_id="frame")
            self.frame = gr.HTML("", elem_id="frame-image")
            with gr.Row():
                self.go_on = gr.Button("Continue from here", elem_id="continue-here", min_width=120)
                self.use = gr.Button("Start another reward from here", elem_id="use-start", min_width=120)
                self.vary = gr.Button("Vary it by choosing", elem_id="vary", min_width=120)
            self.row = gr.Number(
                0, precision=0, minimum=0, label="Row", info="Of a run with several images.", visible=False
            )
        with gr.Accordion("Before and after", open=False, elem_id="wipe-section"):
            self.wipe = gr.ImageSlider(label="Start and best", type="filepath", interactive=False, elem_id="wipe")
            self.download = gr.DownloadButton("Download the best image", interactive=False, elem_id="download")
        with gr.Accordion("Render with more steps", open=False, elem_id="render-section"):
            with gr.Row():
                self.steps = gr.Number(
                    40, precision=0, minimum=1, label="Denoising steps", info="A multiple of the run's."
                )
                self.seeds = gr.Number(
                    0, precision=0, minimum=0, maximum=16, label="Neighbors", info="Of the best noise."
                )
            self.render = gr.Button("Render", elem_id="render")
            self.rendered = gr.Gallery(
                label="Rendered", columns=4, height="auto", elem_id="rendered", interactive=False
            )
        self.said = gr.HTML("", elem_id="run-said")

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
        where = [self.slider, self.row]
        self.go_on.click(self._continue, where, self.said, **quiet)
        self.use.click(self._name_start, where, [start, self.said], **quiet)
        self.vary.click(self._name_start, where, [choose_start, self.said], **quiet).then(
            lambda: gr.Tabs(selected="choose"), None, tabs, **quiet
        )
        self.render.click(self._render, [self.steps, self.seeds], [self.rendered, self.said], api_visibility="private")

    @property
    def outputs(self) -> list[Any]:
        """What `poll` updates."""
        return [
            self.panel, self.plots, self.pause, self.resume, self.stop, self.more, self.command, self.slider, self.row,
            self.wipe, self.download,
        ]  # fmt: skip

    def poll(self, view: View) -> list[Any] | None:
        """What has changed of the run that a page looks at; None if nothing."""
        if view.run is None:
            return None
        found = self.desk.watcher.look(view.run)
        seen: Snapshot | None = view.seen.get("run")
        if found is seen:
            return None
        view.seen["run"] = found
        before = seen if seen is not None and seen.path == found.path else None
        is_new = before is None
        ended = not found.is_open and (before is None or before.is_open)
        best = found.path / "best" / "00.png"
        pair = (str(found.path / "initial" / "00.png"), str(best))
        both = best.exists() and Path(pair[0]).exists()
        command = to_command("noiseward", "resume", str(found.path)) if found.can_resume else self._command(found)
        last = max(len(found.frames) - 1, 1)
        frames_changed = before is None or before.frames != found.frames
        return [
            *self._draw(found),
            gr.update(interactive=found.is_open),
            gr.update(interactive=found.can_resume),
            gr.update(interactive=found.is_open),
            gr.update(interactive=found.state in ("done", "interrupted", "paused")),
            gr.update(value=command, visible=bool(command)) if is_new or ended else gr.skip(),
            gr.update(maximum=last) if frames_changed else gr.skip(),
            gr.update(visible=found.rows > 1, maximum=max(found.rows - 1, 0)) if is_new else gr.skip(),
            (pair if both else None) if is_new or ended else gr.skip(),
            gr.update(value=str(best) if both else None, interactive=both) if is_new or ended else gr.skip(),
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
        if (run := self.desk.view(request.session_hash).run) is not None:
            self.desk.jobs.stop(run, pause=pause)
        return ""

    def _resume(self, request: gr.Request) -> str:
        if (run := self.desk.view(request.session_hash).run) is not None:
            self.desk.resume(run)
        return ""

    def _more(self, request: gr.Request) -> str:
        if (run := self.desk.view(request.session_hash).run) is not None:
            self.desk.resume(run, steps="+20")
        return ""

    def _snapshot(self, request: gr.Request) -> Snapshot | None:
        run = self.desk.view(request.session_hash).run
        return None if run is None else self.desk.watcher.look(run)

    def _frame(self, at: float, request: gr.Request) -> str:
        found = self._snapshot(request)
        if found is None or not found.frames:
            return ""
        return draw_frame(found, self.desk.places, found.frames[min(int(at), len(found.frames) - 1)])

    def _place(self, at: float, row: float, request: gr.Request) -> tuple[Snapshot, str]:
        """The run, and its frame as a place to start from."""
        found = self._snapshot(request)
        if found is None or not found.frames:
            raise gr.Error("there is no frame yet to start from; wait for the first step")
        index = found.frames[min(int(at), len(found.frames) - 1)]
        text = f"{found.path}@{index}"
        return found, text if found.rows == 1 else f"{text}:{int(row or 0)}"

    def _continue(self, at: float, row: float, request: gr.Request) -> str:
        found, place = self._place(at, row, request)
        if found.spec is None:
            return ""
        values = {**found.spec.values(), "start": place, "method": None, "batch": 1}
        values["prompt"] = found.spec.prompt[int(row or 0) // found.spec.batch :][:1]
        try:
            run = self.desk.begin(self.desk.read_spec(values))
        except NoisewardError as error:
            raise gr.Error(str(error)) from None
        self.desk.view(request.session_hash).run = run
        return ""

    def _name_start(self, at: float, row: float, request: gr.Request) -> tuple[str, str]:
        _, place = self._place(at, row, request)
        return place, "The start is set: choose another reward, then press Start."

    def _render(self, steps: float, seeds: float, request: gr.Request) -> tuple[Any, str]:
        found = self._snapshot(request)
        if found is None or found.is_open:
            raise gr.Error("wait until the run has ended, then render it")
        changes, out = {"num_inference_steps": int(steps)}, found.path / "render" / f"steps-{int(steps)}"
        job = self.desk.jobs.submit("render", out, run=str(found.path), changes=changes, seeds=int(seeds or 0))
        self.desk.jobs.wait(job)
        if job.state != "done":
            raise gr.Error(job.error or "stopped")
        files = zip(job.result["files"], job.result["rewards"], strict=True)
        return [(file, f"reward {reward:.3g}") for file, reward in files], ""
