"""Modular pipelines: Stable Diffusion XL out of blocks, with a guider."""

from __future__ import annotations

from typing import Any

from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines import (
    StableDiffusion3AutoBlocks,
    StableDiffusion3ModularPipeline,
    StableDiffusionXLAutoBlocks,
    StableDiffusionXLModularPipeline,
)

from tests.families import flows, unets


def sdxl(guider: Any = None) -> Any:
    """The parts of the plain pipeline, put into blocks."""
    parts = unets.sdxl().components
    pipe = StableDiffusionXLModularPipeline(StableDiffusionXLAutoBlocks().get_workflow("text2image"))
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler")
    pipe.update_components(**{name: parts[name] for name in names}, guider=guider or ClassifierFreeGuidance(5.0))
    return pipe


def sd3(guider: Any = None) -> Any:
    """A transformer, whose layers some guiders skip or perturb."""
    parts = flows.sd3().components
    pipe = StableDiffusion3ModularPipeline(StableDiffusion3AutoBlocks().get_workflow("text2image"))
    names = [name for name, part in parts.items() if part is not None and name in pipe.components]
    pipe.update_components(**{name: parts[name] for name in names}, guider=guider or ClassifierFreeGuidance(5.0))
    return pipe
