"""Stable Diffusion and what is built around its UNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    ControlNetXSAdapter,
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    PriorTransformer,
    T2IAdapter,
    VQModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessorPil,
)

from tests.catalog.cases import Case, case, make_pipeline, mask, photo
from tests.families import unets
from tests.families.text import WIDTH, clip, clip_tokenizer

__all__ = ["CASES", "wake", "controlnet", "image_processor", "vision"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
ETA: dict[str, Any] = {**SIZE, "eta": 1.0}
FROM: dict[str, Any] = {"image": photo(), "num_inference_steps": 3, "strength": 0.7, "eta": 1.0}
PAGED = {"pag_applied_layers": "mid"}


def parts(**config: Any) -> dict[str, Any]:
    """Stable Diffusion's, with a UNet of another configuration."""
    return unets.parts(**config)


def wake(net: Any) -> Any:
    """A net whose outputs, zero when it is made, are not."""
    for name, weight in net.named_parameters():
        if name.startswith("controlnet_") or "conv_out" in name or "zero" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return net


def controlnet(unet: Any) -> Any:
    """A ControlNet of a UNet."""
    return wake(ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 8)))


def with_controlnet(**config: Any) -> dict[str, Any]:
    """With a ControlNet."""
    made = parts(**config)
    return {**made, "controlnet": controlnet(made["unet"] if not config else parts()["unet"])}


def with_pag() -> dict[str, Any]:
    """With a layer for perturbed attention."""
    return {**parts(), **PAGED}


def vision(side: int = 32) -> Any:
    """A CLIP that sees."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
            patch_size=side // 4, projection_dim=WIDTH,
        )
    )  # fmt: skip


def image_processor() -> Any:
    """What prepares images for it."""
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def image_variation() -> dict[str, Any]:
    """An image stands for the prompt."""
    return {**parts(), "image_encoder": vision(), "feature_extractor": image_processor()}


def with_depth() -> dict[str, Any]:
    """With an estimate of depth as a fifth channel."""
    config = DPTConfig(
        backbone_config=None, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=4, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3],
    )  # fmt: skip
    made = parts(in_channels=5)
    return {
        **made, "depth_estimator": DPTForDepthEstimation(config),
        "feature_extractor": DPTImageProcessorPil(size={"height": 16, "width": 16}),
    }  # fmt: skip


def upscaler() -> dict[str, Any]:
    """From a small image, noised by a scheduler of its own."""
    made = parts(in_channels=7, num_class_embeds=1000)
    low = DDPMScheduler(**unets.BETAS)
    return {**made, "low_res_scheduler": low, "max_noise_level": 350}


def unclip() -> dict[str, Any]:
    """A prior in front, whose embedding is noised."""
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1, num_embeddings=8,
        additional_embeddings=4,
    )  # fmt: skip
    made = parts(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH)
    return {
        **made, "prior_tokenizer": clip_tokenizer(), "prior_text_encoder": clip(projected=True), "prior": prior,
        "prior_scheduler": DDPMScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0,
            beta_schedule="squaredcos_cap_v2",
        ),
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    }  # fmt: skip


def unclip_from() -> dict[str, Any]:
    """An image's embedding, noised."""
    return {**unclip(), "image_encoder": vision(), "feature_extractor": image_processor()}


def with_adapter() -> dict[str, Any]:
    """With a T2I adapter."""
    torch.manual_seed(0)
    adapter = T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return {**parts(), "adapter": adapter}


def gligen() -> dict[str, Any]:
    """Attention that is gated by boxes."""
    return parts(attention_type="gated")


def xs() -> dict[str, Any]:
    """A ControlNet that talks back."""
    made = parts(norm_num_groups=4, layers_per_block=2)
    adapter = ControlNetXSAdapter.from_unet(
        made["unet"], size_ratio=1, num_attention_heads=2, conditioning_embedding_out_channels=(8, 8)
    )
    return {**made, "controlnet": wake(adapter)}


def lcm(**config: Any) -> dict[str, Any]:
    """The guidance scale is an input."""
    return {**parts(time_cond_proj_dim=8, **config), "scheduler": LCMScheduler(**unets.BETAS)}


def with_inverse_scheduler() -> dict[str, Any]:
    """With a scheduler that goes back."""
    return {**parts(), "inverse_scheduler": DDIMInverseScheduler(**unets.BETAS, clip_sample=False)}


def multistep() -> dict[str, Any]:
    """DPM-Solver++, as LEDITS++ has it."""
    return {**parts(), "scheduler": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)}


def inverted(name: str, parts: Callable[[], Mapping[str, Any]]) -> Any:
    """LEDITS++ edits the image that it inverted last, from the noise it found for it."""
    pipe = make_pipeline(name, parts())
    pipe.set_progress_bar_config(disable=True)
    pipe.invert(photo(32), num_inversion_steps=3, skip=0.1)
    return pipe


def marigold() -> dict[str, Any]:
    """Depth, normals, materials: out of an image's latents."""
    return {
        **parts(in_channels=8), "prediction_type": "depth", "scale_invariant": True, "shift_invariant": True,
        "default_denoising_steps": 2, "default_processing_resolution": 16,
    }  # fmt: skip


def super_resolution() -> dict[str, Any]:
    """Latent diffusion without text."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=6, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )  # fmt: skip
    vqvae = VQModel(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, norm_num_groups=8, num_vq_embeddings=16,
    )  # fmt: skip
    return {"unet": unet, "vqvae": vqvae, "scheduler": DDIMScheduler()}


def tiny() -> dict[str, Any]:
    """With the autoencoder that has no posterior."""
    made = parts()
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    return {**made, "vae": vae}


VQ = "its autoencoder rounds to a codebook, through which the gradient is a straight-through estimate"
DRAWN = {"image": photo(), "control_image": photo(seed=1)}
CASES = [
    case("StableDiffusionPipeline", parts, **ETA),
    case("StableDiffusionImg2ImgPipeline", parts, **FROM),
    case("StableDiffusionInpaintPipeline", lambda: parts(in_channels=9), mask_image=mask(), **{**SIZE, **FROM}),
    case("StableDiffusionControlNetPipeline", with_controlnet, image=photo(), **ETA),
    case("StableDiffusionControlNetImg2ImgPipeline", with_controlnet, **FROM, control_image=photo(seed=1)),
    case("StableDiffusionControlNetInpaintPipeline", with_controlnet, **DRAWN, mask_image=mask(), **ETA),
    case("StableDiffusionPAGPipeline", with_pag, pag_scale=3.0, **ETA),
    case("StableDiffusionPAGImg2ImgPipeline", with_pag, pag_scale=3.0, **FROM),
    case("StableDiffusionPAGInpaintPipeline", with_pag, pag_scale=3.0, mask_image=mask(), **{**SIZE, **FROM}),
    case("StableDiffusionControlNetPAGPipeline", lambda: {**with_controlnet(), **PAGED}, image=photo(), **ETA),
    case("StableDiffusionControlNetPAGInpaintPipeline", lambda: {**with_controlnet(), **PAGED}, **DRAWN,
         mask_image=mask(), **ETA),
    case("StableDiffusionControlNetXSPipeline", xs, image=photo(), **ETA),
    case("StableDiffusionAdapterPipeline", with_adapter, image=photo(), **ETA),
    case("StableDiffusionDepth2ImgPipeline", with_depth, **FROM),
    case("StableDiffusionImageVariationPipeline", image_variation, image=photo(32), prompts=None, **ETA),
    case("StableDiffusionInstructPix2PixPipeline", lambda: parts(in_channels=8), image=photo(), num_inference_steps=2,
         eta=1.0),
    case("StableDiffusionUpscalePipeline", upscaler, image=photo(), num_inference_steps=2, eta=1.0),
    case("StableUnCLIPPipeline", unclip, prior_num_inference_steps=2, **ETA),
    case("StableUnCLIPImg2ImgPipeline", unclip_from, image=photo(32), **ETA),
    case("StableDiffusionGLIGENPipeline", gligen, gligen_phrases=["a"], gligen_boxes=[[0.1, 0.1, 0.6, 0.6]], **ETA),
    case("StableDiffusionLDM3DPipeline", parts, refused="This type pt is not supported", **ETA),
    case("StableDiffusionPanoramaPipeline", parts, refused="its gradient fails", **ETA),
    case("StableDiffusionPipelineSafe", parts, **ETA),
    case("StableDiffusionSAGPipeline", parts, sag_scale=0.5, **ETA),
    case("SemanticStableDiffusionPipeline", parts, editing_prompt=["f"], **ETA),
    case("StableDiffusionDiffEditPipeline", with_inverse_scheduler, mask_image=mask(8), num_inference_steps=2,
         image_latents=torch.zeros(1, 1, 4, 8, 8), refused="drew no Gaussian noise"),
    case("CycleDiffusionPipeline", parts, source_prompt="f", image=photo(), num_inference_steps=3, eta=0.1),
    case("StableDiffusionModelEditingPipeline", parts, **ETA),
    case("StableDiffusionInpaintPipelineLegacy", parts, mask_image=mask(), **FROM),
    case("LatentConsistencyModelPipeline", lcm, **SIZE),
    case("LatentConsistencyModelImg2ImgPipeline", lcm, image=photo(), num_inference_steps=3, strength=0.8),
    case("LDMSuperResolutionPipeline", super_resolution, noted=VQ, image=photo(32), num_inference_steps=2, eta=1.0,
         prompts=None),
    case("MarigoldDepthPipeline", marigold, image=photo(), num_inference_steps=2, prompts=None),
    case("MarigoldNormalsPipeline", marigold, image=photo(), num_inference_steps=2,
         prompts=None),
    case("MarigoldIntrinsicsPipeline",
         lambda: {**marigold(), **parts(in_channels=12, out_channels=8), "prediction_type": "intrinsics",
                  "target_properties": {"target_names": ["albedo", "material"]}},
         image=photo(), num_inference_steps=2, prompts=None),
    case("TextToVideoZeroPipeline", parts, video_length=2, t0=1, t1=2, refused="no gradient reaches the sample",
         **{**SIZE, "num_inference_steps": 3}),
    Case("LEditsPPPipelineStableDiffusion", lambda: inverted("LEditsPPPipelineStableDiffusion", multistep),
         {"editing_prompt": ["f"], "use_intersect_mask": False}, None, refused="drew no Gaussian noise"),
]  # fmt: skip
