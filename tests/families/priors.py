"""Pipelines whose denoiser has a name of its own: priors and decoders of Kandinsky 2.2 and Stable Cascade."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDPMWuerstchenScheduler,
    KandinskyV22CombinedPipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    StableCascadeDecoderPipeline,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    UnCLIPScheduler,
)
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.families.raw import kandinsky22
from tests.families.text import WIDTH, clip, clip_tokenizer


def latents() -> Any:
    """What Stable Cascade's prior would say of a prompt."""
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def kandinsky22_prior() -> Any:
    """Embeddings of an image, for its decoder."""
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1, num_embeddings=8,
        additional_embeddings=4,
    )  # fmt: skip
    prior.clip_std = torch.nn.Parameter(torch.ones(prior.clip_std.shape))
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, image_size=32, projection_dim=WIDTH, num_attention_heads=2, intermediate_size=32,
            num_hidden_layers=1, patch_size=8,
        )
    )  # fmt: skip
    return KandinskyV22PriorPipeline(
        prior=prior, image_encoder=vision, text_encoder=clip(projected=True), tokenizer=clip_tokenizer(),
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )  # fmt: skip


def kandinsky22_pair() -> Any:
    """The prior and the decoder in one."""
    prior, decoder = kandinsky22_prior(), kandinsky22()
    names = ("prior", "image_encoder", "text_encoder", "tokenizer", "scheduler", "image_processor")
    return KandinskyV22CombinedPipeline(
        unet=decoder.unet, scheduler=decoder.scheduler, movq=decoder.movq,
        **{f"prior_{name}": getattr(prior, name) for name in names},
    )  # fmt: skip


def _cascade_unet(**config: Any) -> Any:
    return StableCascadeUNet(**{
        "conditioning_dim": 16, "block_out_channels": (8, 16), "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "down_blocks_repeat_mappers": (1, 1),
        "up_blocks_repeat_mappers": (1, 1), "clip_text_pooled_in_channels": WIDTH, "in_channels": 4,
        "out_channels": 4, "kernel_size": 1, **config,
    })  # fmt: skip


def cascade_prior() -> Any:
    """Latents for its decoder."""
    torch.manual_seed(0)
    prior = _cascade_unet(
        switch_level=(False,), clip_image_in_channels=WIDTH, clip_text_in_channels=WIDTH,
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
    )  # fmt: skip
    return StableCascadePriorPipeline(
        prior=prior, text_encoder=clip(projected=True), tokenizer=clip_tokenizer(), scheduler=DDPMWuerstchenScheduler()
    )


def cascade_decoder() -> Any:
    """Images, on a prior's latents."""
    torch.manual_seed(0)
    decoder = _cascade_unet(
        effnet_in_channels=4, patch_size=2, clip_seq=4,
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
    )  # fmt: skip
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8, latent_channels=4)
    return StableCascadeDecoderPipeline(
        decoder=decoder, text_encoder=clip(projected=True), tokenizer=clip_tokenizer(), vqgan=vqgan,
        scheduler=DDPMWuerstchenScheduler(), latent_dim_scale=4.0,
    )  # fmt: skip
