"""Stable Diffusion and what is built like it: a UNet that looks at text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.families.text import WIDTH, clip, clip_tokenizer

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def vae() -> Any:
    """Latents of 4 channels, half as high and wide as the image."""
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, layers_per_block=1, sample_size=16,
    )  # fmt: skip


def unet(**config: Any) -> Any:
    """Two blocks, of 8 and 16 channels."""
    return UNet2DConditionModel(**{
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH, "attention_head_dim": 2, "norm_num_groups": 4, **config,
    })  # fmt: skip


def ddim(**config: Any) -> Any:
    """The scheduler of Stable Diffusion's own folder."""
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)


def parts(**config: Any) -> dict[str, Any]:
    """What a Stable Diffusion pipeline is made of; the config is the UNet's."""
    torch.manual_seed(0)
    return {
        "vae": vae(), "text_encoder": clip(), "tokenizer": clip_tokenizer(), "unet": unet(**config),
        "scheduler": ddim(), "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip


def sd1() -> Any:
    """Predicts the noise."""
    return StableDiffusionPipeline(**parts())


def sd2() -> Any:
    """Predicts the velocity; projects with linear layers."""
    pipe = StableDiffusionPipeline(**parts(use_linear_projection=True))
    pipe.scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return pipe


def sdxl() -> Any:
    """Two text encoders, and sizes as conditions."""
    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(layers=2), text_encoder_2=clip(projected=True, layers=2),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), scheduler=ddim(), add_watermarker=False,
        unet=unet(
            cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + WIDTH, transformer_layers_per_block=1,
        ),
    )  # fmt: skip


def turbo() -> Any:
    """SDXL in one step."""
    pipe = sdxl()
    pipe.scheduler = EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1)
    return pipe


def lcm() -> Any:
    """The guidance scale is an input."""
    made = parts(time_cond_proj_dim=8)
    made["scheduler"] = LCMScheduler(**BETAS)
    return LatentConsistencyModelPipeline(**made)
