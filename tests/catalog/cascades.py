"""Pipelines in stages and in pixels: Kandinsky, DeepFloyd IF, Stable Cascade, unCLIP, and those without text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    KarrasVeScheduler,
    PNDMScheduler,
    RePaintScheduler,
    ScoreSdeVeScheduler,
    UnCLIPScheduler,
    UNet1DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import XLMRobertaTokenizer

from tests.catalog.cases import case, make_embedding, mask, photo, reconfigure
from tests.catalog.stable import VQ, image_processor, vision
from tests.families import pixels, priors, raw
from tests.families.text import LETTERS, WIDTH, clip, clip_tokenizer

__all__ = ["CASES"]

STEPS: dict[str, Any] = {"num_inference_steps": 2}
SIZE: dict[str, Any] = {"height": 16, "width": 16, **STEPS}
EMBEDS = {"image_embeds": raw.embeds(1), "negative_image_embeds": raw.embeds(2)}
FROM: dict[str, Any] = {"image": photo(64), "height": 64, "width": 64, "num_inference_steps": 3, "strength": 0.7}
PRIOR = {"prior_num_inference_steps": 2}


def of(pipe: Any) -> dict[str, Any]:
    """A pipeline's parts."""
    return {name: part for name, part in pipe.components.items() if part is not None}


def decoder22(**config: Any) -> dict[str, Any]:
    """Kandinsky 2.2's decoder with another UNet."""
    made = of(raw.kandinsky22())
    return {**made, "unet": reconfigure(made["unet"], **config)} if config else made


def join(decoder: dict[str, Any], prior: Any) -> dict[str, Any]:
    """A decoder and its prior."""
    return {**decoder, **{f"prior_{name}": part for name, part in of(prior).items()}}


def kandinsky1(**config: Any) -> dict[str, Any]:
    """Kandinsky 2.1: a multilingual CLIP beside the prior's embedding."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
    tokenizer = XLMRobertaTokenizer(vocab=[(piece, -float(k)) for k, piece in enumerate(pieces)])
    tokenizer.model_max_length = 77
    text = MultilingualCLIP(
        MCLIPConfig(
            numDims=WIDTH, transformerDimensions=WIDTH, hidden_size=WIDTH, intermediate_size=32, num_attention_heads=2,
            num_hidden_layers=1, vocab_size=64, max_position_embeddings=128,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(**{
        "in_channels": 4, "out_channels": 8, "addition_embed_type": "text_image", "sample_size": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": (8, 16), "layers_per_block": 1,
        "encoder_hid_dim": WIDTH, "encoder_hid_dim_type": "text_image_proj", "cross_attention_dim": WIDTH,
        "attention_head_dim": 4, "resnet_time_scale_shift": "scale_shift", "class_embed_type": None,
        "norm_num_groups": 4, **config,
    })  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return {"text_encoder": text, "tokenizer": tokenizer, "unet": unet, "scheduler": scheduler, "movq": raw.movq()}


def prior1() -> Any:
    """Kandinsky 2.1's prior."""
    from diffusers import KandinskyPriorPipeline

    return KandinskyPriorPipeline(**of(priors.kandinsky22_prior()))


def floyd(**config: Any) -> dict[str, Any]:
    """DeepFloyd IF, the UNet with another configuration; without a safety checker and a watermark."""
    made = of(raw.deepfloyd())
    return {**made, "unet": reconfigure(made["unet"], **config)} if config else made


def floyd_upper() -> dict[str, Any]:
    """The second stage, which is shown the first one's image, noised."""
    made = floyd(in_channels=6, class_embed_type="timestep")
    return {**made, "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}


def unclip() -> dict[str, Any]:
    """DALL-E 2: a prior, a decoder, two that enlarge."""
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    torch.manual_seed(0)
    prior = of(priors.kandinsky22_prior())["prior"]
    decoder = UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=6, down_block_types=("ResnetDownsampleBlock2D",
        "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=WIDTH, attention_head_dim=4, resnet_time_scale_shift="scale_shift",
        class_embed_type="identity", norm_num_groups=4,
    )  # fmt: skip
    upper = {
        "sample_size": 16, "in_channels": 6, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (8, 16),
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "norm_num_groups": 4,
    }  # fmt: skip
    return {
        "prior": prior, "decoder": decoder, "text_encoder": clip(projected=True), "tokenizer": clip_tokenizer(),
        "text_proj": UnCLIPTextProjModel(
            clip_embeddings_dim=WIDTH, time_embed_dim=32, cross_attention_dim=WIDTH, clip_extra_context_tokens=2
        ),
        "super_res_first": UNet2DModel(**upper), "super_res_last": UNet2DModel(**upper),
        "prior_scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=5.0
        ),
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
        "image_encoder": vision(), "feature_extractor": image_processor(),
    }  # fmt: skip


def wuerstchen() -> dict[str, Any]:
    """Stable Cascade's forerunner."""
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt, WuerstchenPrior

    torch.manual_seed(0)
    prior = WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=WIDTH, c_r=8, nhead=2)
    decoder = WuerstchenDiffNeXt(
        c_cond=WIDTH, c_hidden=[8], nhead=[-1], blocks=[1], level_config=["CT"], clip_embd=WIDTH, inject_effnet=[False]
    )
    cascade = of(priors.cascade_decoder())
    shared = {"text_encoder": cascade["text_encoder"], "tokenizer": cascade["tokenizer"]}
    shared |= {"scheduler": DDPMWuerstchenScheduler(), "vqgan": cascade["vqgan"]}
    ahead = {"text_encoder": clip(), "tokenizer": clip_tokenizer(), "scheduler": DDPMWuerstchenScheduler()}
    return {
        **shared, "prior": prior, "decoder": decoder, "latent_dim_scale": 4.0,
        **{f"prior_{name}": part for name, part in {**ahead, "prior": prior}.items()},
    }  # fmt: skip


def unconditional(scheduler: Any, **config: Any) -> dict[str, Any]:
    """A UNet on pixels."""
    made = of(pixels.ddpm())
    return {"unet": reconfigure(made["unet"], **config), "scheduler": scheduler}


def continuous() -> dict[str, Any]:
    """A score model of a variance that explodes."""
    unet = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8, time_embedding_type="fourier",
    )  # fmt: skip
    return {"unet": unet, "scheduler": ScoreSdeVeScheduler()}


def latent() -> dict[str, Any]:
    """Latent diffusion without a condition."""
    made = unconditional(DDIMScheduler(), sample_size=8)
    vqvae = VQModel(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, norm_num_groups=8, num_vq_embeddings=16,
    )  # fmt: skip
    return {**made, "vqvae": vqvae}


def dance() -> dict[str, Any]:
    """Sound, as it is."""
    torch.manual_seed(0)
    unet = UNet1DModel(
        block_out_channels=(32, 32, 64), extra_in_channels=64, sample_size=64, sample_rate=16_000, in_channels=2,
        out_channels=2, flip_sin_to_cos=True, use_timestep_embedding=False, time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D", down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip
    from diffusers import IPNDMScheduler

    return {"unet": unet, "scheduler": IPNDMScheduler()}


def consistency() -> dict[str, Any]:
    """Distilled into one step, or few."""
    return unconditional(CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0))


HINT = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
CASES = [
    case("KandinskyPriorPipeline", lambda: of(prior1()), **STEPS),
    case("KandinskyPipeline", kandinsky1, **EMBEDS, **SIZE),
    case("KandinskyImg2ImgPipeline", kandinsky1, **EMBEDS, **FROM),
    case("KandinskyInpaintPipeline", lambda: kandinsky1(in_channels=9), **EMBEDS, image=photo(64), mask_image=mask(64),
         height=64, width=64, **STEPS),
    case("KandinskyCombinedPipeline", lambda: join(kandinsky1(), prior1()), **PRIOR, **SIZE),
    case("KandinskyV22Pipeline", decoder22, prompts=None, **EMBEDS, **SIZE),
    case("KandinskyV22Img2ImgPipeline", decoder22, prompts=None, **EMBEDS, **FROM),
    case("KandinskyV22InpaintPipeline", lambda: decoder22(in_channels=9), prompts=None, **EMBEDS, image=photo(64),
         mask_image=mask(64), height=64, width=64, **STEPS),
    case("KandinskyV22ControlnetPipeline", lambda: decoder22(in_channels=8, addition_embed_type="image_hint"),
         prompts=None,
         hint=HINT, **EMBEDS, height=64, width=64, **STEPS),
    case("KandinskyV22ControlnetImg2ImgPipeline", lambda: decoder22(in_channels=8, addition_embed_type="image_hint"),
         prompts=None, hint=HINT, **EMBEDS, **FROM),
    case("KandinskyV22PriorPipeline", lambda: of(priors.kandinsky22_prior()), **STEPS),
    case("KandinskyV22PriorEmb2EmbPipeline", lambda: of(priors.kandinsky22_prior()), image=photo(32), strength=0.7,
         num_inference_steps=3),
    case("KandinskyV22CombinedPipeline", lambda: join(decoder22(), priors.kandinsky22_prior()), **PRIOR, **SIZE),
    case("KandinskyV22Img2ImgCombinedPipeline", lambda: join(decoder22(), priors.kandinsky22_prior()), **PRIOR,
         **FROM),
    case("KandinskyV22InpaintCombinedPipeline", lambda: join(decoder22(in_channels=9), priors.kandinsky22_prior()),
         **PRIOR, image=photo(64), mask_image=mask(64), height=64, width=64, **STEPS),
    case("Kandinsky3Pipeline", lambda: of(raw.kandinsky3()), **SIZE),
    case("Kandinsky3Img2ImgPipeline", lambda: of(raw.kandinsky3()), image=photo(64), strength=0.7,
         num_inference_steps=3),
    case("IFPipeline", floyd, **SIZE),
    case("IFImg2ImgPipeline", floyd, image=photo(), num_inference_steps=3, strength=0.7),
    case("IFInpaintingPipeline", floyd, image=photo(), mask_image=mask(), num_inference_steps=3, strength=0.9),
    case("IFSuperResolutionPipeline", floyd_upper, image=photo(8), **SIZE),
    case("IFImg2ImgSuperResolutionPipeline", floyd_upper, image=photo(8), original_image=photo(),
         num_inference_steps=3),
    case("IFInpaintingSuperResolutionPipeline", floyd_upper, image=photo(8), original_image=photo(), mask_image=mask(),
         num_inference_steps=3),
    case("StableCascadePriorPipeline", lambda: of(priors.cascade_prior()), height=512, width=512, **STEPS),
    case("StableCascadeDecoderPipeline", lambda: of(priors.cascade_decoder()), image_embeddings=priors.latents(),
         **STEPS),
    case("StableCascadeCombinedPipeline", lambda: join(of(priors.cascade_decoder()), priors.cascade_prior()),
         height=512, width=512, **PRIOR, **STEPS),
    case("UnCLIPPipeline", unclip, **PRIOR, decoder_num_inference_steps=2,
         super_res_num_inference_steps=2),
    case("UnCLIPImageVariationPipeline", unclip, image=photo(32), decoder_num_inference_steps=2,
         super_res_num_inference_steps=2, prompts=None),
    case("WuerstchenPriorPipeline", wuerstchen, height=512, width=512, **STEPS),
    case("WuerstchenDecoderPipeline", wuerstchen, image_embeddings=make_embedding(1, 4, 4, 4), **STEPS),
    case("DDIMPipeline", lambda: unconditional(DDIMScheduler()), eta=1.0, prompts=None, **STEPS),
    case("DDPMPipeline", lambda: unconditional(DDPMScheduler()), prompts=None, **STEPS),
    case("PNDMPipeline", parts=lambda: unconditional(PNDMScheduler()), prompts=None,
         num_inference_steps=4),
    case("LDMPipeline", latent, noted=VQ, eta=1.0, prompts=None, **STEPS),
    case("ScoreSdeVePipeline", continuous, prompts=None, **STEPS),
    case("KarrasVePipeline", lambda: unconditional(KarrasVeScheduler(sigma_min=0.1, sigma_max=1.0)), prompts=None,
         **STEPS),
    case("RePaintPipeline", lambda: unconditional(RePaintScheduler()), image=photo(32),
         mask_image=mask(32), jump_length=1,
         jump_n_sample=1, prompts=None, **STEPS),
    case("ConsistencyModelPipeline", consistency, num_inference_steps=None, timesteps=[22, 0], prompts=None),
    case("DiTPipeline", lambda: {**of(pixels.dit()), "id2label": {1: "goldfish", 7: "cock"}}, prompts=("1", "7"),
         **STEPS),
    case("DanceDiffusionPipeline", dance, audio_length_in_s=0.03, prompts=None, **STEPS),
]  # fmt: skip
