"""Models of the last two years that were missing: Qwen-Image-Edit, Cosmos, Kandinsky 5, LTX 2, HunyuanVideo 1.5.

What reads their prompts is mostly left out, and embeddings stand in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    ClassifierFreeGuidance,
    CosmosTransformer3DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImageTransformer2DModel,
    HunyuanVideo15Transformer3DModel,
    Kandinsky5Transformer3DModel,
    LTX2VideoTransformer3DModel,
    UniPCMultistepScheduler,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from torch.nn import Module

from tests.catalog.cases import Case, case, make_embedding, make_pipeline, mask, photo
from tests.catalog.flow import wake
from tests.catalog.moving import wan
from tests.catalog.newer import hunyuan_video
from tests.catalog.readers import qwen_image, z_image
from tests.families import flows
from tests.families.text import WIDTH

__all__ = ["CASES"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
LARGE: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 2}
SHORT = {"max_sequence_length": 8}
UNREAD = {f"{kind}{part}": None for part in ("", "_2") for kind in ("text_encoder", "tokenizer")}


def made_with(
    name: str, parts: Callable[[], Mapping[str, Any]], small: Mapping[str, Any], *, refused: str | None = None,
    noted: str = "", single: bool = False, **call: Any,
) -> Case:  # fmt: skip
    """A case of a class whose sizes are no arguments: attributes of the pipeline, or names in its module."""

    def build() -> Any:
        pipe = make_pipeline(name, parts())
        for key, value in small.items():
            setattr(pipe if hasattr(pipe, key) else sys.modules[type(pipe).__module__], key, value)
        return pipe

    return Case(name, build, call, None, refused, noted, single)


def qwen_edit() -> dict[str, Any]:
    """Qwen-Image, with a reference next to the image."""
    return {**qwen_image(), "text_encoder": None, "tokenizer": None, "processor": None}


def qwen_texts() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, sign in enumerate(("", "negative_")):
        made[f"{sign}prompt_embeds"] = make_embedding(1, 8, WIDTH, seed=number)
        made[f"{sign}prompt_embeds_mask"] = torch.ones(1, 8, dtype=torch.long)
    return made


class Guardrail(Module):
    """What the checker of Cosmos looks like to a pipeline; it finds nothing."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, text: str) -> bool:
        return bool(text)

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def cosmos(**config: Any) -> dict[str, Any]:
    """Video of worlds; its guardrail comes with it."""
    torch.manual_seed(0)
    transformer = CosmosTransformer3DModel(**{
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
        "text_embed_dim": WIDTH, "adaln_lora_dim": 4, "max_size": (4, 32, 32), "extra_pos_embed_type": None,
        "concat_padding_mask": False, **config,
    })  # fmt: skip
    return {
        **wan(), "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        "text_encoder": None, "tokenizer": None, "safety_checker": Guardrail(),
    }  # fmt: skip


def cosmos_first() -> dict[str, Any]:
    """Cosmos 1, with an autoencoder of its own."""
    torch.manual_seed(0)
    vae = AutoencoderKLCosmos(
        in_channels=3, out_channels=3, latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(8,), resolution=64, num_layers=1, patch_size=4,
        patch_type="haar", scaling_factor=1.0, spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip
    return {**cosmos(in_channels=4, out_channels=4), "vae": vae, "scheduler": scheduler}


def kandinsky5(**config: Any) -> dict[str, Any]:
    """Kandinsky 5: cross attention to Qwen's embeddings."""
    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(**{
        "in_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 16, "out_visual_dim": 4,
        "patch_size": (1, 2, 2), "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 1,
        "axes_dims": (4, 2, 2), "visual_cond": False, **config,
    })  # fmt: skip
    for name, weight in transformer.named_parameters():  # its modulations are zero when it is made
        if "modulation" in name or "out_layer" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return {"transformer": transformer, "vae": flows.flow_vae(), "scheduler": FlowMatchEulerDiscreteScheduler(),
            **UNREAD}  # fmt: skip


def kandinsky5_texts() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, sign in enumerate(("", "negative_")):
        made[f"{sign}prompt_embeds_qwen"] = make_embedding(1, 8, WIDTH, seed=number)
        made[f"{sign}prompt_embeds_clip"] = make_embedding(1, WIDTH, seed=2 + number)
        made[f"{sign}prompt_cu_seqlens"] = torch.tensor([0, 8], dtype=torch.int32)
    return made


def hunyuan_image() -> dict[str, Any]:
    """HunyuanImage 2.1: strong compression, two readers, a guider."""
    torch.manual_seed(0)
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=False, text_embed_dim=WIDTH, text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=16, scaling_factor=0.75,
    )  # fmt: skip
    guider = AdaptiveProjectedMixGuidance(guidance_scale=3.0, adaptive_projected_guidance_start_step=0)
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(), **UNREAD,
            "guider": guider}  # fmt: skip


def two_texts() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, sign in enumerate(("", "negative_")):
        made[f"{sign}prompt_embeds"] = make_embedding(1, 8, WIDTH, seed=number)
        made[f"{sign}prompt_embeds_mask"] = torch.ones(1, 8, dtype=torch.long)
        made[f"{sign}prompt_embeds_2"] = make_embedding(1, 4, WIDTH, seed=2 + number)
        made[f"{sign}prompt_embeds_mask_2"] = torch.ones(1, 4, dtype=torch.long)
    return made


def hunyuan_video15() -> dict[str, Any]:
    """HunyuanVideo 1.5: text and image tokens in one stream."""
    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_refiner_layers=1,
        text_embed_dim=WIDTH, text_embed_2_dim=WIDTH, image_embed_dim=8, rope_axes_dim=(2, 2, 4), target_size=16,
        task_type="t2v",
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32, 32), layers_per_block=1,
        spatial_compression_ratio=8, temporal_compression_ratio=4,
    )  # fmt: skip
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(), **UNREAD,
            "guider": ClassifierFreeGuidance(guidance_scale=3.0)}  # fmt: skip


def ltx2() -> dict[str, Any]:
    """Video and its sound, which are denoised together."""
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads", caption_channels=WIDTH,
        rope_double_precision=False, rope_type="split",
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=WIDTH, text_proj_in_factor=2, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=WIDTH // 2, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=WIDTH // 2, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_double_precision=False,
        rope_type="split",
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False), downsample_type=("spatial",),
        upsample_residual=(False,), upsample_factor=(1,), down_block_types=("LTX2VideoDownBlock3D",),
        timestep_conditioning=False, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
        upsample_type=("spatial",),
    )  # fmt: skip
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
        resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )  # fmt: skip
    return {
        "transformer": transformer, "connectors": connectors, "vae": vae, "audio_vae": audio_vae, "vocoder": vocoder,
        "scheduler": FlowMatchEulerDiscreteScheduler(), **UNREAD,
    }  # fmt: skip


def ltx2_texts() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, sign in enumerate(("", "negative_")):
        made[f"{sign}prompt_embeds"] = make_embedding(1, 8, 2 * WIDTH, seed=number)
        made[f"{sign}prompt_attention_mask"] = torch.ones(1, 8, dtype=torch.long)
    return made


def z_image_with_inpainting() -> dict[str, Any]:
    """A ControlNet that also sees the mask and what it leaves."""
    from diffusers import ZImageControlNetModel

    made = z_image()
    net = ZImageControlNetModel(
        control_layers_places=[0], control_in_dim=9, all_patch_size=(2,), all_f_patch_size=(1,), dim=16,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    return {**made, "controlnet": wake(net)}


FEW = {"num_frames": 9, **SIZE}
GUARD = "guardrail"
CASES = [
    made_with("QwenImageEditPipeline", qwen_edit, {"calculate_dimensions": lambda *_: (16, 16, None)}, image=photo(),
              **qwen_texts(), **SHORT, **SIZE),
    made_with("QwenImageEditPlusPipeline", qwen_edit, {"calculate_dimensions": lambda *_: (16, 16)},
              image=[photo(), photo(seed=1), photo(seed=2)], **qwen_texts(), **SHORT, **SIZE),
    made_with("QwenImageEditInpaintPipeline", qwen_edit, {"calculate_dimensions": lambda *_: (16, 16, None)},
              image=photo(), mask_image=mask(), strength=0.7, **qwen_texts(), **SHORT, **{**SIZE,
              "num_inference_steps": 3}),
    case("Cosmos2TextToImagePipeline", cosmos, prompts=None, refused=GUARD, prompt_embeds=make_embedding(1, 8, WIDTH),
         negative_prompt_embeds=make_embedding(1, 8, WIDTH, seed=1), **SIZE),
    case("Cosmos2VideoToWorldPipeline", lambda: cosmos(in_channels=17), prompts=None, refused=GUARD, image=photo(),
         prompt_embeds=make_embedding(1, 8, WIDTH), negative_prompt_embeds=make_embedding(1, 8, WIDTH, seed=1), **FEW),
    case("CosmosTextToWorldPipeline", cosmos_first, prompts=None, refused=GUARD,
         prompt_embeds=make_embedding(1, 8, WIDTH), negative_prompt_embeds=make_embedding(1, 8, WIDTH, seed=1), **FEW),
    made_with("Cosmos2_5_PredictBasePipeline",
         lambda: {**cosmos(in_channels=17), "scheduler": UniPCMultistepScheduler(use_flow_sigmas=True,
                                                                              prediction_type="flow_prediction")},
         {"CosmosSafetyChecker": Guardrail}, refused=GUARD, prompt_embeds=make_embedding(1, 8, WIDTH),
         negative_prompt_embeds=make_embedding(1, 8, WIDTH, seed=1), **FEW),
    made_with("Kandinsky5T2IPipeline", kandinsky5, {"resolutions": [(16, 16)], "vae_scale_factor_spatial": 2},
              noted="its rotary embedding rounds to bfloat16", **kandinsky5_texts(), **SIZE),
    case("Kandinsky5T2VPipeline", lambda: {**kandinsky5(visual_cond=True), "vae": hunyuan_video()["vae"]},
         prompts=None, num_frames=5, **kandinsky5_texts(), **SIZE),
    case("HunyuanImagePipeline", hunyuan_image, prompts=None, **two_texts(), **SIZE),
    made_with("HunyuanVideo15Pipeline", hunyuan_video15, {"vision_num_semantic_tokens": 4}, num_frames=5,
              **two_texts(), **SIZE),
    made_with("LTX2Pipeline", ltx2, {}, single=True, num_frames=5, frame_rate=25.0, spatio_temporal_guidance_blocks=[1],
         **ltx2_texts(), **LARGE),
    case("ZImageControlNetInpaintPipeline", z_image_with_inpainting, image=photo(), mask_image=mask(),
         control_image=photo(seed=1), **SHORT, **SIZE),
]  # fmt: skip
