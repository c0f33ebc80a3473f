"""The tab that begins runs: prompt, rewards with weights, a preset, and all options."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.options.run import RunSpec
from noiseward.studio.desk import Desk
from noiseward.studio.draw import draw_error, draw_note
from noiseward.studio.forecast import forecast
from noiseward.studio.forms import Form, make_field
from noiseward.studio.prompt_note import PromptNote
from noiseward.studio.run_view import RunView

__all__ = ["CreateTab", "describe_rewards", "list_choices", "list_rewards"]

WEIGHTS = 6  # rewards that have a slider
PRESETS: dict[str, dict[str, Any]] = {
    "Balanced": {"steps": "", "method": ""},
    "Quick look": {"steps": "8", "method": ""},
    "Best quality": {"steps": "60", "method": ""},
    "Stay close to the start": {"steps": "", "method": "auto:keep_seed=true"},
}
OWN = ("prompt", "reward", "model", "start")  # options with a place of their own


def list_rewards() -> list[str]:
    """Rewards that can be used, by name."""
    from noiseward.rewards.catalog import ENTRIES, is_available, list_installed

    return [name for name in [*ENTRIES, *list_installed()] if is_available(name)]


def list_choices() -> dict[str, Any]:
    """What to offer for an option, by name."""
    from noiseward.methods import METHODS
    from noiseward.pipelines.cards import load_cards, load_schedulers

    return {
        "model": lambda: list(load_cards()),
        "method": lambda: list(METHODS),
        "scheduler": lambda: list(load_schedulers()),
        "watch": lambda: ["none", *list_rewards()],
        "stop_when": lambda: ["plateau", "hacked"],
        "dtype": lambda: ["float32", "bfloat16", "float16"],
        "device": lambda: ["cpu", "cuda", "mps"],
    }


class CreateTab:
    """Begins runs.

    Arguments:
        desk: what it belongs to.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk, self.view, self.note = desk, RunView(desk), PromptNote("prompt-note")
        choices = list_choices()
        self.form = Form(RunSpec, [name for name in RunSpec.names() if name not in OWN], choices)
        self._choices = choices

    def show(self) -> None:
        """Put the components on the page."""
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    info="What to draw; several prompts on lines of their own.",
                    lines=2,
                    value="a duck",
                    elem_id="prompt",
                )
                self.note.show()
                self.reward = gr.Dropdown(
                    list_rewards(), value=["brightness"], multiselect=True, allow_custom_value=True, label="Rewards",
                    info="What the image should have more of; the tab Rewards adds others.", elem_id="reward",
                    max_choices=WEIGHTS,
                )  # fmt: skip
                self.meaning = gr.HTML(describe_rewards(["brightness"]), elem_id="reward-note")
                self.weights = [
                    gr.Slider(-2, 2, value=1, step=0.05, label=f"Weight {k + 1}", visible=False, elem_id=f"weight-{k}")
                    for k in range(WEIGHTS)
                ]
                self.preset = gr.Radio(
                    list(PRESETS), value="Balanced", label="Preset", elem_id="preset",
                    info="Balanced has 30 steps, Quick look 8, Best quality 60. Stay close improves the first image "
                    "and looks at no others.",
                )  # fmt: skip
                self.model = make_field(RunSpec, "model", self._choices["model"])
                self.origin = make_field(RunSpec, "start")
                self.start = gr.Button("Start", variant="primary", elem_id="start-run")
                self.said = gr.HTML("", elem_id="create-said")
                with gr.Accordion("All options", open=False, elem_id="all-options"):
                    self.form.show()
            with gr.Column(scale=3, min_width=320):
                self.view.show()

    def connect(self) -> None:
        """Say what happens."""
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        self.note.connect(self.prompt, self.model)
        shown = [*self.weights, self.meaning]
        self.reward.change(_show_weights, self.reward, shown, api_visibility="private", **quiet)
        names = ["steps", "method"]
        table = json.dumps({preset: [values[name] for name in names] for preset, values in PRESETS.items()})
        self.preset.change(  # in the browser: who presses Start at once gets what was chosen
            None,
            self.preset,
            [self.form.fields[name] for name in names],
            js=f"(preset) => ({table})[preset]",
            api_visibility="private",
            **quiet,
        )
        self.start.click(self._start, self.inputs, [self.said], api_visibility="private", **quiet).then(
            None, None, None, js="() => noiseward.show('run', 'create-said')", api_visibility="private"
        )

    @property
    def inputs(self) -> list[Any]:
        """The components that say what to run."""
        return [self.prompt, self.reward, self.model, self.origin, *self.weights, *self.form.components]

    def read(self, prompt: str, reward: Sequence[str], model: str, values: Sequence[Any]) -> dict[str, Any]:
        """The options that are given.

        Arguments:
            prompt: one or more lines.
            reward: the rewards that are chosen.
            model: a name; empty for the default.
            values: the start, the weights, then the other fields.
        """
        origin, weights, rest = (values[0] or "").strip(), values[1 : WEIGHTS + 1], values[WEIGHTS + 1 :]
        rewards = [
            name if k >= WEIGHTS or float(weights[k]) == 1 else f"{name}:{float(weights[k]):g}"
            for k, name in enumerate(reward)
        ]
        prompts = tuple(filter(None, map(str.strip, (prompt or "").splitlines())))
        own = {"prompt": prompts, "reward": tuple(rewards), **({"model": model} if model else {})}
        own |= {"start": origin} if origin else {}
        return {**self.form.read(rest), **own}

    def _start(self, request: gr.Request, prompt: str, reward: list[str], model: str, *values: Any) -> str:
        try:
            found = self.read(prompt, reward, model, values)
            _check(found, model)
            spec = self.desk.read_spec(found)
            long = forecast(spec, self.desk.places, self.desk.watcher)
            run = self.desk.begin(spec)
        except NoisewardError as error:
            return draw_error(error)
        self.desk.view(request.session_hash).run = run
        note = f'<p class="nw-note" role="status">{html.escape(long)}</p>' if long else ""
        return draw_note(self.desk.place(run)) + note


def _check(found: dict[str, Any], model: str) -> None:
    """Raise `ArgumentError` where the prompt or the reward is missing, or a name is not known."""
    from noiseward.pipelines.cards import card_of

    if not found["reward"]:
        raise ArgumentError("choose at least one reward: what the image should have more of")
    card = card_of(model or RunSpec.model_fields["model"].default)
    if not found["prompt"] and card and card.needs_prompt:
        raise ArgumentError("write a prompt: what to draw, as in 'a duck'")


def describe_rewards(names: Sequence[str]) -> str:
    """What rewards measure, a line each, as HTML.

    Example:
        >>> describe_rewards(["brightness", "darkness"])
        '<div class="nw-small">brightness: mean of all pixels<br>darkness: 1 - brightness</div>'
    """
    from noiseward.rewards.catalog import ENTRIES

    known = [(name, ENTRIES[name].measures) for name in names if name in ENTRIES]
    lines = "<br>".join(f"{html.escape(name)}: {html.escape(measures)}" for name, measures in known)
    return f'<div class="nw-small">{lines}</div>' if lines else ""


def _show_weights(rewards: list[str]) -> list[Any]:
    several = len(rewards) > 1
    sliders = [
        gr.Slider(visible=several and k < len(rewards), label=f"Weight of {rewards[k]}" if k < len(rewards) else "")
        for k in range(WEIGHTS)
    ]
    return [*sliders, describe_rewards(rewards)]
