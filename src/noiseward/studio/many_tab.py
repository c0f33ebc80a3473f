"""The tab of many runs: batches over prompts, and comparisons of methods, begun and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.options.command_line import to_arguments, to_command
from noiseward.options.commands import BatchOptions, CompareOptions
from noiseward.options.run import RunSpec, shorten_to_slug
from noiseward.runs.files import replace_file
from noiseward.studio.create_tab import CreateTab
from noiseward.studio.desk import Desk, View
from noiseward.studio.draw import draw_empty, draw_error, draw_note, draw_state, to_address
from noiseward.studio.forms import Form, make_command
from noiseward.studio.part import Part
from noiseward.studio.prompt_note import PromptNote

__all__ = ["ManyTab"]

EMPTY = "Model, rewards and options are those of the tab Create. Write prompts, and begin a batch or a comparison."
REPORT = "report.html"


class ManyTab:
    """Batches and comparisons.

    Arguments:
        desk: what it belongs to.
        create: the tab whose options they take.
    """

    def __init__(self, desk: Desk, create: CreateTab) -> None:
        self.desk, self.create = desk, create
        self.note = PromptNote("many-note")
        self.batch_form = Form(BatchOptions, ["seeds", "template", "pack"], prefix="batch")
        self.compare_form = Form(CompareOptions, ["methods", "budget", "seeds"], prefix="compare")

    def show(self) -> None:
        """Put the components on the page."""
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.prompts = gr.Textbox(
                    label="Prompts", lines=6, value="a duck\na frog", info="One per line.", elem_id="many-prompts"
                )
                self.note.show()
                self.with_what = gr.HTML("", elem_id="many-with")
                with gr.Tabs():
                    with gr.Tab("Batch"):
                        self.batch_form.show_plainly()
                        self.begin_batch = gr.Button("Begin batch", variant="primary", elem_id="begin-batch")
                    with gr.Tab("Compare methods"):
                        self.compare_form.show_plainly()
                        self.begin_compare = gr.Button("Begin comparison", variant="primary", elem_id="begin-compare")
                self.stop = gr.Button("Stop", elem_id="stop-sweep")
                self.said = gr.HTML("", elem_id="many-said")
            with gr.Column(scale=3, min_width=320):
                self.command = make_command("sweep-command")
                self.panel = gr.HTML(draw_empty(EMPTY), elem_id="sweep")

    def connect(self, tab: gr.Tab) -> None:
        """Say what happens.

        Arguments:
            tab: this one.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.note.connect(self.prompts, self.create.model)
        taken = [self.create.reward, self.create.model, self.create.preset]
        tab.select(_say_with, taken, self.with_what, **quiet)
        inputs, out = self.create.inputs, [self.command, self.said]
        self.begin_batch.click(self._batch, [self.prompts, *self.batch_form.components, *inputs], out, **quiet)
        self.begin_compare.click(self._compare, [self.prompts, *self.compare_form.components, *inputs], out, **quiet)
        for button in (self.begin_batch, self.begin_compare):
            button.click(
                None, None, None, js="() => setTimeout(() => noiseward.show('sweep', 'many-said'), 600)", **quiet
            )
        self.stop.click(self._stop, None, self.said, **quiet)

    @property
    def parts(self) -> list[Part]:
        """What changes by itself."""
        return [Part([self.panel], self._poll)]

    def _poll(self, view: View) -> list[Any] | None:
        """What has changed of the sweep that a page looks at; None if nothing."""
        if view.sweep is None:
            return None
        job = self.desk.jobs.find(view.sweep)
        state = job.state if job is not None else "done"
        report = view.sweep / REPORT
        done = sorted(view.sweep.glob("packs/*/status.json"))
        stamps = tuple(file.stat().st_mtime_ns for file in [*done, *([report] if report.exists() else [])])
        seen = (view.sweep, state, stamps)
        if view.seen.get("sweep") == seen:
            return None
        view.seen["sweep"] = seen
        return [self._draw(view.sweep, state, job.error if job else None, len(done), report)]

    def _draw(self, path: Path, state: str, error: str | None, begun: int, report: Path) -> str:
        import html

        from noiseward.runs.files import read_json

        try:
            total = len(read_json(path / "batch.json")["packs"])
        except (NoisewardError, KeyError):
            total = 0
        head = f'<div class="nw-head"><strong>{html.escape(path.name)}</strong> {draw_state(state)}'
        head += f" {begun} of {total} groups of images begun</div>" if total else "</div>"
        parts = [head, draw_error(NoisewardError(error)) if error else ""]
        if report.exists():
            address = to_address(self.desk.places, report, report.stat().st_mtime_ns)
            parts.append(f'<iframe class="nw-frame" src="{address}" title="report" sandbox="allow-scripts"></iframe>')
        else:
            images = sorted(path.glob("packs/*/best/*.png"))[:48]
            tiles = "".join(
                f'<figure><img src="{to_address(self.desk.places, file)}" alt=""></figure>' for file in images
            )
            parts.append(f'<div class="nw-row">{tiles}</div>')
        return "".join(parts)

    def _read(self, prompts: str, values: tuple[Any, ...], *, leave_out: tuple[str, ...]) -> tuple[RunSpec, list[str]]:
        """The options of the tab Create without some, and the prompts."""
        _, reward, model, *rest = values
        lines = list(filter(None, map(str.strip, (prompts or "").splitlines())))
        if not lines:
            raise ArgumentError("write at least one prompt, each on a line of its own")
        found = self.create.read("", reward, model, rest)
        return self.desk.read_spec({name: one for name, one in found.items() if name not in leave_out}), lines

    def _begin(
        self, kind: str, spec: RunSpec, own: list[str], lines: list[str], request: gr.Request
    ) -> tuple[Any, str]:
        path = self.desk.fresh(shorten_to_slug(f"{kind} {lines[0]} {spec.reward[0]}"))
        file = self.desk.places.own / "prompts" / f"{path.name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda beside: beside.write_text("\n".join(lines) + "\n", encoding="utf-8"))
        source = [str(file)] if kind == "batch" else ["--prompts", str(file)]
        arguments = [kind, *source, *own, *to_arguments(spec), "--out", str(path)]
        self.desk.jobs.submit("command", path, arguments=arguments)
        self.desk.view(request.session_hash).sweep = path
        return gr.Code(to_command("noiseward", *arguments), visible=True), draw_note(self.desk.place(path))

    def _batch(self, request: gr.Request, prompts: str, *values: Any) -> tuple[Any, str]:
        count = len(self.batch_form.names)
        try:
            own = self.batch_form.read(values[:count])
            spec, lines = self._read(prompts, values[count:], leave_out=("batch", "start"))
            options = BatchOptions.read({**own, "prompts": "-", "out": "-"})
            words = to_arguments(options, leave_out=("prompts", "out"))
            return self._begin("batch", spec, words, lines, request)
        except NoisewardError as error:
            return gr.skip(), draw_error(error)

    def _compare(self, request: gr.Request, prompts: str, *values: Any) -> tuple[Any, str]:
        count = len(self.compare_form.names)
        try:
            own = self.compare_form.read(values[:count])
            without = ("method", "batch", "steps", "seconds", "nfe", "target", "watch_every", "start")
            spec, lines = self._read(prompts, values[count:], leave_out=without)
            options = CompareOptions.read({**own, "out": "-"})
            _ = options.limit
            return self._begin("compare", spec, to_arguments(options, leave_out=("prompts", "out")), lines, request)
        except NoisewardError as error:
            return gr.skip(), draw_error(error)

    def _stop(self, request: gr.Request) -> str:
        path = self.desk.view(request.session_hash).sweep
        job = None if path is None else self.desk.jobs.find(path)
        if path is None or job is None or not job.is_open:
            return draw_error(ArgumentError("nothing is running here; Begin starts a batch or a comparison"))
        self.desk.jobs.stop(path)
        return draw_note("being stopped; the command on the right continues it")


def _say_with(reward: list[str], model: str, preset: str) -> str:
    """What the tab Create has, which holds here, too."""
    return draw_note(f"As in Create: more {' + '.join(reward) or '(no reward)'}, model {model}, preset {preset}.")
