"""Nodes for ComfyUI: `Noiseward Align` raises a reward while an image is generated.

Put this folder, or a link to it, into `ComfyUI/custom_nodes`, and install the library where ComfyUI runs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

NOISE = "NOISEWARD_NOISE"  # a tensor: what a run found, for another one to start from


class NoisewardAlign:
    """A model, a prompt and rewards in; the aligned images, their noise and a plot out."""

    CATEGORY = "sampling/noiseward"
    DESCRIPTION = "Raise a reward by optimizing its noise."
    FUNCTION = "align"
    RETURN_TYPES = ("IMAGE", "IMAGE", NOISE, "IMAGE", "STRING")
    RETURN_NAMES = ("images", "before", "noise", "plot", "report")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        from noiseward.methods import METHODS

        return {
            "required": {
                "model": (
                    "STRING",
                    {"default": "stickers", "tooltip": "A short name, a diffusers folder, or a hub id."},
                ),
                "prompt": ("STRING", {"default": "a duck", "multiline": True}),
                "rewards": ("STRING", {"default": "brightness", "tooltip": "With commas: brightness,contrast:0.5"}),
                "method": (list(METHODS), {"default": "auto"}),
                "steps": ("INT", {"default": 30, "min": 1, "max": 10_000, "tooltip": "Optimization steps."}),
                "batch": ("INT", {"default": 1, "min": 1, "max": 64}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**53, "control_after_generate": True}),
            },
            "optional": {
                "start": (NOISE, {"tooltip": "Noise of another Noiseward Align."}),
                "options": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "NAME=VALUE on each line, as eta=1"},
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def align(
        self, model: str, prompt: str, rewards: str, method: str, steps: int, batch: int, seed: int,
        start: Any = None, options: str = "", unique_id: str | None = None,
    ) -> tuple[Any, Any, Any, Any, str]:  # fmt: skip
        """Run; shows every step, and stops where ComfyUI's own button is pressed."""
        import comfy.model_management
        import comfy.utils

        import noiseward
        from noiseward.options.parts import split_parts

        bar = comfy.utils.ProgressBar(steps, node_id=unique_id)
        given = {} if start is None else {"start": start}
        run = noiseward.steps(
            model, prompt, list(split_parts(rewards)), method=method, steps=steps, batch=batch, seed=seed,
            progress=False, **given, **read_options(options),
        )  # fmt: skip
        for step in run:
            bar.update_absolute(min(step.index, steps), steps, ("JPEG", draw_preview(step), 512))
            comfy.model_management.throw_exception_if_processing_interrupted()
        solution = run.solution
        best, before = (to_comfy(one) for one in (solution.sample, solution.initial.sample))
        return best, before, solution.noise, from_pillow(solution.plot()), str(solution)


class NoisewardReward:
    """Images in, the score of each out."""

    CATEGORY = "sampling/noiseward"
    DESCRIPTION = "Score images by a reward."
    FUNCTION = "score"
    RETURN_TYPES = ("FLOAT", "STRING")
    RETURN_NAMES = ("mean", "scores")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        return {
            "required": {
                "images": ("IMAGE",),
                "rewards": ("STRING", {"default": "brightness"}),
                "prompt": ("STRING", {"default": "", "multiline": True}),
            }
        }

    def score(self, images: Any, rewards: str, prompt: str) -> tuple[float, str]:
        import torch

        from noiseward.options.parts import split_parts
        from noiseward.rewards.parse import parse_rewards
        from noiseward.rewards.reward import score

        with torch.no_grad():
            found = score(parse_rewards(list(split_parts(rewards))), images.movedim(-1, 1), [prompt] * len(images))[0]
        return found.mean().item(), ", ".join(f"{one:.4g}" for one in found.tolist())


def read_options(text: str) -> dict[str, Any]:
    """`KEY=VALUE` on each line, as options of `noiseward.align`."""
    from noiseward.options.parts import read_assignments

    return read_assignments(filter(None, map(str.strip, text.splitlines())), name="options")


def draw_preview(step: Any) -> Any:
    """The newest images of a step, side by side, as ComfyUI shows previews."""
    from noiseward.images import draw_grid, has_images, to_images

    if not has_images(step.evaluation.sample):
        return None
    return draw_grid([to_images(step.evaluation.sample)])


def to_comfy(sample: Any) -> Any:
    """Samples `(B, 3, H, W)` as ComfyUI's images `(B, H, W, 3)`."""
    return sample.detach().float().clamp(0, 1).movedim(1, -1).cpu().contiguous()


def from_pillow(image: Any) -> Any:
    """A Pillow image as ComfyUI's `(1, H, W, 3)`."""
    import numpy
    import torch

    return torch.from_numpy(numpy.array(image.convert("RGB"))).float()[None] / 255


NODE_CLASS_MAPPINGS: dict[str, type] = {"NoisewardAlign": NoisewardAlign, "NoisewardReward": NoisewardReward}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "NoisewardAlign": "Noiseward Align",
    "NoisewardReward": "Noiseward Reward",
}
