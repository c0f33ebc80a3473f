"""Pipelines to time: built from configs with random weights, so that nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from tests.families import unets
from tests.families.text import WIDTH, clip, clip_tokenizer

__all__ = ["PIXELS", "small_sd"]

PIXELS = 64


def small_sd() -> Any:
    """A Stable Diffusion whose denoiser has 7.1 M weights: 16 x 16 latents, 64 x 64 images."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 160), layers_per_block=1, cross_attention_dim=WIDTH,
        attention_head_dim=4, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, sample_size=PIXELS,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=clip(), tokenizer=clip_tokenizer(), scheduler=unets.ddim(), unet=unet,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    for module in (unet, vae, pipe.text_encoder):
        module.requires_grad_(False).eval()
    return pipe
