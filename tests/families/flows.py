"""Transformers: Stable Diffusion 3, Flux, PixArt-Sigma, Sana."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from tests.families.text import LETTERS, WIDTH, clip, clip_tokenizer, t5, t5_tokenizer
from tests.families.unets import vae


def flow_vae() -> Any:
    """Latents shifted and scaled, without the extra convolutions."""
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, layers_per_block=1, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.1, scaling_factor=1.5, sample_size=16,
    )  # fmt: skip


def sd3() -> Any:
    """Three text encoders, an ODE."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=flow_vae(),
        text_encoder=clip(projected=True, layers=2), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projected=True, layers=2), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def sd3_stochastic() -> Any:
    """Fresh noise at every step."""
    pipe = sd3()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    return pipe


def flux() -> Any:
    """Latents packed into tokens; distilled guidance."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=flow_vae(),
        text_encoder=clip(), tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def pixart() -> Any:
    """A learned variance, cut off."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, cross_attention_dim=16, caption_channels=2 * WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        transformer=transformer, scheduler=DPMSolverMultistepScheduler(), vae=vae(), text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )  # fmt: skip


def sana() -> Any:
    """Linear attention, a deep autoencoder, Gemma reads the prompt."""
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=8, norm_elementwise_affine=False,
    )  # fmt: skip
    autoencoder = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"), decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.5,
    )  # fmt: skip
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
    tokenizer = GemmaTokenizer(vocab={word: k for k, word in enumerate(words)}, merges=[], add_bos_token=True)
    gemma = Gemma2Config(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return SanaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder,
        text_encoder=Gemma2Model(gemma), tokenizer=tokenizer,
    )  # fmt: skip
