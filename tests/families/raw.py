"""Pipelines whose tensors are not in [0, 1]: DeepFloyd IF, Kandinsky 2.2 and 3."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    UNet2DConditionModel,
    VQModel,
)

from tests.families.text import WIDTH, t5, t5_tokenizer


def embeds(seed: int) -> Any:
    """What a prior would say of a prompt."""
    return torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))


def movq() -> Any:
    """Latents of 4 channels, half as high and wide as the image."""
    return VQModel(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), in_channels=3,
        latent_channels=4, layers_per_block=1, norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12,
        out_channels=3, up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), vq_embed_dim=4,
    )  # fmt: skip


def deepfloyd() -> Any:
    """Pixels, with a learned variance."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(8, 16), in_channels=3, out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=2 * WIDTH,
        encoder_hid_dim=2 * WIDTH, attention_head_dim=2, addition_embed_type="text", addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift", act_fn="gelu", norm_num_groups=4,
    )  # fmt: skip
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", variance_type="learned_range",
        prediction_type="epsilon", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.0,
    )  # fmt: skip
    return IFPipeline(
        unet=unet, scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer(), safety_checker=None,
        feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


def kandinsky22() -> Any:
    """The decoder, on a prior's embeddings."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image", sample_size=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(8, 16), layers_per_block=1,
        encoder_hid_dim=WIDTH, encoder_hid_dim_type="image_proj", cross_attention_dim=WIDTH, attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", class_embed_type=None, norm_num_groups=4,
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, variance_type="learned_range", clip_sample=False)
    return KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq())


def kandinsky3() -> Any:
    """A T5 reads the prompt."""
    torch.manual_seed(0)
    unet = Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=2 * WIDTH,
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True, thresholding=False)
    return Kandinsky3Pipeline(unet=unet, scheduler=scheduler, movq=movq(), text_encoder=t5(), tokenizer=t5_tokenizer())
