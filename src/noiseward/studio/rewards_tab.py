"""The tab of rewards: try them on images, add a judge by its address, write one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import gradio as gr

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.runs.files import replace_file
from noiseward.studio.create_tab import list_rewards
from noiseward.studio.desk import Desk
from noiseward.studio.draw import draw_empty, draw_error, draw_note, draw_table
from noiseward.studio.forms import Form
from noiseward.studio.judge_form import JudgeOptions, write_judge

__all__ = ["RewardsTab"]

EMPTY = "Give some images and choose rewards: you see how each scores each image."
EXAMPLE = """def redness(images):  # (B, 3, H, W) in [0, 1] to (B,)
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))
"""


class RewardsTab:
    """Rewards.

    Arguments:
        desk: what it belongs to.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.form = Form(JudgeOptions, JudgeOptions.names(), prefix="chat", plain={})

    def show(self) -> None:
        """Put the components on the page."""
        with gr.Row():
            with gr.Column(min_width=300):
                self.images = gr.File(
                    label="Images", file_count="multiple", file_types=["image"], elem_id="score-images", type="filepath"
                )
                self.prompt = gr.Textbox(label="Prompt", info="For rewards that read one.", elem_id="score-prompt")
                self.names = gr.Dropdown(
                    list_rewards(), value=["brightness", "contrast"], multiselect=True, allow_custom_value=True,
                    label="Rewards", elem_id="score-rewards",
                )  # fmt: skip
                self.score = gr.Button("Score", variant="primary", elem_id="score")
                self.said = gr.HTML("", elem_id="rewards-said")
            with gr.Column(min_width=300):
                self.table = gr.HTML(draw_empty(EMPTY), elem_id="scores")
        with gr.Accordion("Add a chat model as a judge", open=False, elem_id="chat-section"):
            gr.Markdown("It looks at each image and says how good it is. Images leave this machine if its server does.")
            self.form.show_plainly()
            self.add_chat = gr.Button("Add to the rewards of Create", elem_id="add-chat")
            self.chat_said = gr.HTML("", elem_id="chat-said")
        with gr.Accordion("Add a judge by its address", open=False, elem_id="judge-section"):
            self.address = gr.Textbox(
                label="Address", placeholder="http://127.0.0.1:8000", elem_id="judge-address",
                info="A server of 'noiseward serve-reward'; or any reward as the command line takes it.",
            )  # fmt: skip
            self.add = gr.Button("Add to the rewards of Create", elem_id="add-judge")
            self.judge_said = gr.HTML("", elem_id="judge-said")
        if self.desk.allow_code:
            with gr.Accordion("Write a reward", open=False):
                self.code = gr.Code(EXAMPLE, language="python", label="A function of images", elem_id="code")
                self.save = gr.Button("Save and add to the rewards of Create", elem_id="save-code")
                self.code_said = gr.HTML("", elem_id="code-said")

    def connect(self, reward: gr.Dropdown) -> None:
        """Say what happens.

        Arguments:
            reward: the field of rewards to optimize.
        """
        quiet: dict[str, Any] = {"api_visibility": "private"}
        self.score.click(self._score, [self.images, self.names, self.prompt], [self.table, self.said], **quiet)
        self.add.click(self._add, [self.address, reward], [reward, self.judge_said], show_progress="hidden", **quiet)
        fields = [reward, *self.form.components]
        self.add_chat.click(self._add_chat, fields, [reward, self.chat_said], show_progress="hidden", **quiet)
        if self.desk.allow_code:
            self.save.click(self._save, [self.code, reward], [reward, self.code_said], show_progress="hidden", **quiet)

    def _score(self, images: list[str] | None, names: list[str], prompt: str) -> tuple[Any, str]:
        try:
            if not images or not names:
                raise ArgumentError("give at least one image, and choose at least one reward")
            self.desk.read_spec({"reward": tuple(names)})
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        job = self.desk.jobs.submit(
            "score", self.desk.places.own / "scores", rewards=names, images=images, prompt=prompt
        )
        self.desk.jobs.wait(job)
        if job.state != "done":
            return gr.skip(), draw_error(NoisewardError(job.error or "stopped"))
        files = [Path(image) for image in images]
        rows = [[file, *(job.result[name][k] for name in names)] for k, file in enumerate(files)]
        return draw_table(["image", *names], rows), ""

    def _add(self, address: str, reward: list[str]) -> tuple[Any, str]:
        text = (address or "").strip()
        if not re.match(r"https?://[^/]+|[a-z][a-z0-9-]*:", text):
            return gr.skip(), draw_error(
                ArgumentError(f"expected an address as http://127.0.0.1:8000, got '{text[:60]}'")
            )
        return self._put(reward, text)

    def _add_chat(self, reward: list[str], *values: Any) -> tuple[Any, str]:
        try:
            text = write_judge(self.form.read(values))
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        return self._put(reward, text)

    def _put(self, reward: list[str], text: str) -> tuple[Any, str]:
        """Add a reward to those of the tab Create."""
        from noiseward.rewards.names import check_reward

        try:
            check_reward(text)
            self.desk.read_spec({"reward": (text,)})
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        chosen = reward if text in reward else [*reward, text]
        return chosen, draw_note(f"added to the rewards of Create: {text}")

    def _save(self, code: str, reward: list[str]) -> tuple[Any, str]:
        try:
            name = find_function(code)
        except NoisewardError as error:
            return gr.skip(), draw_error(error)
        file = self.desk.places.own / "rewards" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda path: path.write_text(code, encoding="utf-8"))
        text = f"{file}:{name}"
        chosen = reward if text in reward else [*reward, text]
        return chosen, draw_note(f"saved as {name}; it is among the rewards of Create")


def find_function(code: str) -> str:
    """The name of the last function that some code defines.

    Raises:
        ArgumentError: it is no Python, or defines none.

    Example:
        >>> find_function("def redness(images):\\n    return images[:, 0].mean((1, 2))")
        'redness'
    """
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        raise ArgumentError(f"line {error.lineno}: {error.msg}") from None
    names = [part.name for part in tree.body if isinstance(part, ast.FunctionDef)]
    if not names:
        raise ArgumentError("expected a function of images, as in def redness(images): ...")
    return names[-1]
