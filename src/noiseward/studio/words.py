"""What the page calls things: plain words, each with a sentence that has the technical one.

The library's own words are in its logs, tables and docs. Who opens the page has read none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noiseward.loop.budget import Status
from noiseward.rewards.shortfall import met_reward

__all__ = ["ENDED", "KINDS", "LABELS", "NUMBERS", "PLAIN", "STATES", "describe_numbers", "say_state"]

STATES = {
    "waiting": ("waiting", "Its turn comes when what is before it in the queue has ended."),
    "loading": ("getting ready", "The model and the rewards are being loaded."),
    "running": ("running", "It improves the image, step by step. Stop keeps the best so far."),
    "done": ("finished", "It ended by itself."),
    "interrupted": ("stopped", "It was stopped, and the best so far was kept. Resume continues from there."),
    "paused": ("paused", "Resume continues from here."),
    "killed": ("cut off", "The program ended before the run did (killed). Resume continues it."),
    "failed": ("failed", "Something went wrong; what, is written in red."),
    "missing": ("not begun", "Nothing of it is there yet."),
}
"""By state of a run: a word or two, and what that means."""

KINDS = {"run": "run", "look": "images to choose from", "render": "rendering", "score": "scoring", "command": "batch"}
"""By kind of a job."""

ENDED = {
    Status.RUNNING: "It is not finished.",
    Status.STEPS: "All steps are done. More steps may raise the reward further.",
    Status.SECONDS: "The time is up. More seconds may raise the reward further.",
    Status.NFE: "What the model may be asked is used up. A larger budget may raise the reward further.",
    Status.REWARD: "The reward that you set as the target was reached.",
    Status.SETTLED: "Nothing better was found that still looks like the model's own images. More steps will hardly "
    "help; another seed may.",
    Status.PLATEAU: "The reward stopped rising. A larger budget will hardly help.",
    Status.HACKED: "The reward was probably being fooled from some step on. The best before that was kept.",
    Status.NONFINITE: "The numbers got out of hand at a step. The best before it was kept; a smaller learning rate may "
    "help.",
    Status.INTERRUPTED: "It was stopped. The best so far was kept.",
    Status.COST: "What the judge may cost is spent. The best so far was kept.",
    Status.MEMORY: "The memory was full. The best so far was kept; fewer images at once need less.",
}
"""Why a row ended."""

NUMBERS = {
    "reward": "What is raised: the higher, the more of what you asked for.",
    "typical noise": "P(z). How ordinary the noise behind the image is, from 0 to 1: fresh noise has any value, and "
    "one near 0 (below 0.001) means that it is no longer like noise.",
    "typical image": "P(image). How ordinary the image is for the model, from 0 to 1: nine of ten of its own images "
    "are above 0.1. Below, an image is not taken as the best.",
    "watched": "Rewards that are not raised, only looked at. If they fall while the reward rises, the reward may be "
    "fooled: trust your eyes.",
}
"""The numbers below an image."""

LABELS = {
    "num_inference_steps": "Denoising steps",
    "nfe": "Denoiser calls (NFE)",
    "eta": "Eta",
    "lora": "LoRA weights",
    "call": "Other arguments",
    "ip_adapter": "IP-Adapter",
    "ip_adapter_scale": "IP-Adapter scale",
    "ip_adapter_image": "IP-Adapter image",
    "controlnet": "ControlNet",
    "start": "Start from",
    "batch": "Images per prompt",
    "pack": "Images at once",
    "seeds": "Seeds per prompt",
    "target": "Target reward",
    "base_url": "Address of the server",
    "max_calls": "Questions at most",
    "rubric": "What a good image is",
}
"""Labels of options where the name alone, with spaces, does not do."""

PLAIN = {
    "model": "What draws the images. 'stickers' is built in; others are loaded when they are first used.",
    "start": "Empty: a new image. Buttons below images fill this in; or write RUN, RUN@STEP or a .safetensors file.",
    "num_inference_steps": "How finely each image is drawn: more is slower and cleaner.",
    "seed": "Another number gives another image to start from.",
    "seeds": "How many images of each prompt.",
    "pack": "How many images are worked on at the same time: more need more memory.",
    "template": "Text around each prompt: with 'a {} on a lake', duck becomes 'a duck on a lake'.",
    "methods": "What to compare, with commas: best-of-n,reno,dno. Empty: the usual ones.",
    "budget": "The same for each method: seconds=60, or nfe=2000 for as many questions to the model.",
}
"""Help of options that everyone sees, where that of the command line has words of the field."""


def say_state(state: str) -> str:
    """A state in a word or two.

    Example:
        >>> say_state("killed"), say_state("done")
        ('cut off', 'finished')
    """
    return STATES[state][0] if state in STATES else state


def describe_numbers(step: Mapping[str, Any], row: int) -> list[tuple[str, float | None, str]]:
    """The numbers of a row at a step: each with its name and what it means.

    Arguments:
        step: a record, `Step.record()`.
        row: which image.
    """
    found = [("reward", met_reward(step["reward"][row]), NUMBERS["reward"])]
    found.append(("typical noise", step["probability"][row], NUMBERS["typical noise"]))
    image = step.get("image")
    if image and image[row] is not None and image[row] >= 0:
        found.append(("typical image", image[row], NUMBERS["typical image"]))
    return found + [(name, scores[row], NUMBERS["watched"]) for name, scores in step.get("watched", {}).items()]
