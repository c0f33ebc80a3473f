"""Pipelines of every family, built from small configs with random weights: one builder each, a fraction of a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.families import audio, flows, guided, pixels, unets, video

__all__ = ["FAMILIES", "Family"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of pipeline, and how the battery calls it.

    Arguments:
        build: makes the pipeline.
        call: arguments of its call, as a user would give them.
        draws: how many draws a run makes.
        shape: of one sample.
        prompts: two prompts that tell rows apart; None for a pipeline without any.
        tolerance: relative error allowed between gradient and finite difference: about 1e-6 where every part computes
            in float64, more where the pipeline's own code rounds to float32 on the way.
        width: of the finite difference; wider where it has to rise above float32 rounding.
        seeded: whether `generator=` reproduces every draw; some pipelines keep it from their scheduler.
        dead: the draws the sample does not depend on.
        other: the draws that are no sampler noise, such as the posterior of an encoded image.
    """

    build: Callable[[], Any]
    call: dict[str, Any]
    draws: int
    shape: tuple[int, ...] = (3, 16, 16)
    prompts: tuple[str, str] | None = ("a", "b c")
    tolerance: float = 1e-6
    width: float = 1e-4
    seeded: bool = True
    dead: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


SIZE = {"height": 16, "width": 16, "num_inference_steps": 2}
GIVEN = {"num_inference_steps": 3, "strength": 0.8, "eta": 1.0, "image": guided.make_image()}
FLOAT32 = {"tolerance": 2e-3, "width": 1e-2}  # timesteps, rotations, schedules or the sample in float32 on the way

FAMILIES = {
    "Stable Diffusion 1": Family(unets.sd1, {**SIZE, "eta": 1.0}, draws=3),
    "Stable Diffusion 2": Family(unets.sd2, {**SIZE, "eta": 0.5, "negative_prompt": "d"}, draws=3),
    "SDXL": Family(
        unets.sdxl, {**SIZE, "eta": 1.0, "original_size": (32, 24), "crops_coords_top_left": (2, 4)}, draws=3
    ),
    "SDXL Turbo": Family(
        unets.turbo, {**SIZE, "num_inference_steps": 1, "guidance_scale": 0.0}, draws=2, dead=("step 1",), **FLOAT32
    ),
    "Latent Consistency": Family(unets.lcm, SIZE, draws=2),
    "ControlNet": Family(guided.controlnet, {**SIZE, "eta": 1.0, "image": guided.make_image()}, draws=3),
    "img2img": Family(guided.img2img, GIVEN, draws=4, other=("other",)),
    "inpainting": Family(
        guided.inpaint, {**GIVEN, "height": 16, "width": 16, "mask_image": guided.mask()}, draws=5,
        other=("other 1", "other 2"),
    ),
    "Stable Diffusion 3, ODE": Family(flows.sd3, SIZE, draws=1, **FLOAT32),
    "Stable Diffusion 3, stochastic": Family(
        flows.sd3_stochastic, SIZE, draws=3, dead=("step 2",), seeded=False, **FLOAT32
    ),
    "Flux": Family(flows.flux, SIZE, draws=1, **FLOAT32),
    "PixArt-Sigma": Family(
        flows.pixart, {**SIZE, "use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 8},
        draws=1, **FLOAT32,
    ),
    "Sana": Family(
        flows.sana,
        {
            "height": 32, "width": 32, "num_inference_steps": 2, "use_resolution_binning": False,
            "negative_prompt": "d", "complex_human_instruction": None, "clean_caption": False, "max_sequence_length": 8,
        },
        draws=1, shape=(3, 32, 32), **FLOAT32,
    ),
    "DiT": Family(pixels.dit, {"num_inference_steps": 2}, draws=2, prompts=("1", "7"), seeded=False),
    "DDPM": Family(pixels.ddpm, {"num_inference_steps": 2}, draws=2, prompts=None),
    "Stable Audio": Family(
        audio.stable_audio, {"num_inference_steps": 2, "audio_end_in_s": 1.0}, draws=1, shape=(2, 15), **FLOAT32
    ),
    "LTX Video": Family(
        video.ltx, {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "max_sequence_length": 8},
        draws=1, shape=(9, 3, 32, 32), **FLOAT32,
    ),
    "AnimateDiff": Family(
        video.animatediff, {**SIZE, "num_frames": 2, "eta": 1.0}, draws=3, shape=(2, 3, 16, 16), **FLOAT32
    ),
}  # fmt: skip
