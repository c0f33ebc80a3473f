"""Models without text: DiT draws a class, DDPM whatever it likes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)

from tests.families.unets import vae


def dit() -> Any:
    """One of a thousand classes; guidance doubles the batch, its noise included."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    labels = {1: "goldfish, Carassius auratus", 7: "cock"}
    return DiTPipeline(transformer=transformer, vae=vae(), scheduler=DDPMScheduler(clip_sample=False), id2label=labels)


def ddpm() -> Any:
    """Pixels, without a condition."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler(clip_sample=False))
