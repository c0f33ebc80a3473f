"""Video and sound: AnimateDiff, CogVideoX, LTX, Wan, Mochi, Latte, Sana Video, Stable Audio, and others."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatteTransformer3DModel,
    MochiTransformer3DModel,
    MotifVideoTransformer3DModel,
    MotionAdapter,
    SanaVideoTransformer3DModel,
    SparseControlNetModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from diffusers.guiders import AdaptiveProjectedGuidance

from tests.catalog.cases import case, photo, video
from tests.catalog.readers import gemma
from tests.catalog.stable import controlnet, image_processor, vision
from tests.families import audio, unets
from tests.families import video as families
from tests.families.text import WIDTH, t5, t5_tokenizer

__all__ = ["CASES"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
LARGE: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 2}
SHORT = {"max_sequence_length": 8}
DRAWN = {"num_frames": 2, "eta": 1.0, **SIZE}


def wake(net: Any) -> Any:
    """A motion module whose last layers, zero when it is made, are not."""
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return net


def motion() -> dict[str, Any]:
    """Stable Diffusion with a motion adapter."""
    made = families.animatediff().components
    return {**{name: part for name, part in made.items() if part is not None}, "pag_applied_layers": "mid.*attn1"}


def motion_controlnet() -> dict[str, Any]:
    """With a ControlNet."""
    return {**motion(), "controlnet": controlnet(unets.parts()["unet"])}


def motion_sparse() -> dict[str, Any]:
    """With a ControlNet that knows motion."""
    net = SparseControlNetModel(
        in_channels=4, conditioning_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), attention_head_dim=2, norm_num_groups=4,
        conditioning_embedding_out_channels=(8, 8), motion_num_attention_heads=2, motion_max_seq_length=8,
        use_simplified_condition_embedding=True,
    )  # fmt: skip
    return {**motion(), "controlnet": wake(net)}


def motion_xl() -> dict[str, Any]:
    """SDXL with a motion adapter."""
    made = {name: part for name, part in unets.sdxl().components.items() if part is not None}
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4,
        motion_mid_block_layers_per_block=1, motion_max_seq_length=8, use_motion_mid_block=False,
    )  # fmt: skip
    return {**made, "motion_adapter": wake(adapter)}


def text_to_video() -> dict[str, Any]:
    """A UNet in three dimensions."""
    made = unets.parts()
    torch.manual_seed(0)
    made["unet"] = UNet3DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    return made


def svd() -> dict[str, Any]:
    """An image comes to life."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=WIDTH,
        num_attention_heads=2, projection_class_embeddings_input_dim=24, addition_time_embed_dim=8,
    )  # fmt: skip
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, sample_size=16,
        layers_per_block=1,
    )  # fmt: skip
    return {
        "unet": unet, "vae": vae, "image_encoder": vision(224), "feature_extractor": image_processor(),
        "scheduler": EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
            sigma_max=700.0
        ),
    }  # fmt: skip


def cogvideo(**config: Any) -> dict[str, Any]:
    """Three-dimensional full attention."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**{
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2,
        "text_embed_dim": 2 * WIDTH, "num_layers": 1, "sample_width": 2, "sample_height": 2, "sample_frames": 9,
        "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 8, **config,
    })  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=1,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae, "scheduler": CogVideoXDDIMScheduler(), "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def ltx() -> dict[str, Any]:
    """LTX Video's parts."""
    return dict(families.ltx().components)


def wan(kind: Any = WanTransformer3DModel, **config: Any) -> dict[str, Any]:
    """Wan's parts."""
    torch.manual_seed(0)
    transformer = kind(**{
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 2 * WIDTH, "freq_dim": 16, "ffn_dim": 16, "num_layers": 2,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32, **config,
    })  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return {
        "transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": t5(), "tokenizer": t5_tokenizer(), "image_encoder": None, "image_processor": None,
        "transformer_2": None,
    }  # fmt: skip


def wan_two() -> dict[str, Any]:
    """Wan 2.2: one transformer for much noise, one for little."""
    made = wan()
    torch.manual_seed(1)
    second = type(made["transformer"]).from_config(made["transformer"].config)
    return {**made, "transformer_2": second, "boundary_ratio": 0.875}


def mochi() -> dict[str, Any]:
    """An asymmetric transformer."""
    torch.manual_seed(0)
    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=1, pooled_projection_dim=16,
        in_channels=12, out_channels=None, qk_norm="rms_norm", text_embed_dim=2 * WIDTH, time_embed_dim=4,
        activation_fn="swiglu", max_sequence_length=8,
    )  # fmt: skip
    transformer.pos_frequencies = torch.nn.Parameter(torch.randn(3, 2, 4))
    vae = AutoencoderKLMochi(
        latent_channels=12, out_channels=3, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(), "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def latte() -> dict[str, Any]:
    """Space and time by turns."""
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=2 * WIDTH, in_channels=4, cross_attention_dim=16, out_channels=8, attention_bias=True,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, video_length=2,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": unets.vae(), "scheduler": unets.ddim(), "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def sana_video(**config: Any) -> dict[str, Any]:
    """Linear attention over a video."""
    torch.manual_seed(0)
    transformer = SanaVideoTransformer3DModel(**{
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
        "caption_channels": WIDTH, "mlp_ratio": 2.5, "patch_size": (1, 2, 2), "norm_elementwise_affine": False,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32, **config,
    })  # fmt: skip
    return {**wan(), **gemma(), "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler()}


def motif() -> dict[str, Any]:
    """T5Gemma reads, a guider guides."""
    from transformers.models.t5gemma2 import T5Gemma2Encoder, T5Gemma2EncoderConfig, T5Gemma2TextConfig

    torch.manual_seed(0)
    text = T5Gemma2TextConfig(
        hidden_size=2 * WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=128,
        max_position_embeddings=64, head_dim=8, num_key_value_heads=2, dropout_rate=0.0,
    )  # fmt: skip
    transformer = MotifVideoTransformer3DModel(
        in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_single_layers=1, patch_size=1, patch_size_t=1, qk_norm="rms_norm", text_embed_dim=2 * WIDTH,
        rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    made = {
        **wan(),
        "transformer": transformer,
        "text_encoder": T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text)),
    }
    return {**made, "guider": AdaptiveProjectedGuidance(3.0)}


PLAIN = {"use_resolution_binning": False, "clean_caption": False}
SANA = {**LARGE, "frames": 9, "complex_human_instruction": None, **PLAIN, **SHORT}
CASES = [
    case("AnimateDiffPipeline", motion, **DRAWN),
    case("AnimateDiffPAGPipeline", motion, pag_scale=3.0, **DRAWN),
    case("AnimateDiffControlNetPipeline", motion_controlnet, conditioning_frames=video(2), **DRAWN),
    case("AnimateDiffSparseControlNetPipeline", motion_sparse, conditioning_frames=video(1), **DRAWN),
    case("AnimateDiffVideoToVideoPipeline", motion, video=video(2), strength=0.7, eta=1.0, **{**SIZE,
         "num_inference_steps": 3}),
    case("AnimateDiffVideoToVideoControlNetPipeline", motion_controlnet, video=video(2), conditioning_frames=video(2),
         strength=0.7, eta=1.0, **{**SIZE, "num_inference_steps": 3}),
    case("AnimateDiffSDXLPipeline", motion_xl, **DRAWN),
    case("TextToVideoSDPipeline", text_to_video, **DRAWN),
    case("VideoToVideoSDPipeline", text_to_video, video=video(2), strength=0.7, num_inference_steps=3, eta=1.0),
    case("StableVideoDiffusionPipeline", svd, image=photo(32), num_frames=2, prompts=None, **SIZE),
    case("CogVideoXPipeline", cogvideo, num_frames=9, **SHORT, **SIZE),
    case("CogVideoXImageToVideoPipeline", lambda: cogvideo(in_channels=8), image=photo(), num_frames=9, **SHORT,
         **SIZE),
    case("CogVideoXVideoToVideoPipeline", cogvideo, video=video(9), strength=0.7, **SHORT, **{**SIZE,
         "num_inference_steps": 3}),
    case("CogVideoXFunControlPipeline", lambda: cogvideo(in_channels=8), control_video=video(9), **SHORT, **SIZE),
    case("LTXPipeline", ltx, num_frames=9, **SHORT, **LARGE),
    case("LTXImageToVideoPipeline", ltx, image=photo(32), num_frames=9, **SHORT, **LARGE),
    case("LTXConditionPipeline", ltx, image=photo(32), num_frames=9, **SHORT, **LARGE),
    case("WanPipeline", wan, num_frames=9, **SHORT, **SIZE),
    case("WanImageToVideoPipeline", lambda: wan(in_channels=36, image_dim=None), image=photo(), num_frames=9, **SHORT,
         **SIZE),
    case("WanVideoToVideoPipeline", lambda: {**wan(), "scheduler": UniPCMultistepScheduler(flow_shift=3.0)},
         video=video(9), strength=0.7,
         **SHORT, **{**SIZE, "num_inference_steps": 3}),
    case("WanVACEPipeline", lambda: wan(WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=96),
         num_frames=9, **SHORT, **SIZE),
    case("MochiPipeline", mochi, num_frames=7, **SHORT, **SIZE),
    case("LattePipeline", latte, video_length=2, clean_caption=False, eta=1.0, **SIZE),
    case("SanaVideoPipeline", sana_video, **SANA),
    case("SanaImageToVideoPipeline", sana_video, image=photo(32), **SANA),
    case("MotifVideoPipeline", motif, num_frames=9, **SHORT, **SIZE),
    case("StableAudioPipeline", lambda: dict(audio.stable_audio().components), audio_end_in_s=1.0,
         num_inference_steps=2),
]  # fmt: skip
