"""Stable Diffusion 3, Flux, Chroma, and others of one transformer over latents and text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    BriaTransformer2DModel,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    SD3ControlNetModel,
)

from tests.catalog.cases import case, mask, photo, reconfigure
from tests.families import flows
from tests.families.text import WIDTH, t5, t5_tokenizer
from tests.families.unets import vae

__all__ = ["CASES"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
FROM: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 3, "image": photo(), "strength": 0.7}
SHORT = {"max_sequence_length": 8}


def sd3(**config: Any) -> dict[str, Any]:
    """Stable Diffusion 3's parts, the transformer with another configuration."""
    made = {name: part for name, part in flows.sd3().components.items() if part is not None}
    if config:
        made["transformer"] = reconfigure(made["transformer"], **config)
    return {**made, "pag_applied_layers": "blocks.1"}


def sd3_wide() -> dict[str, Any]:
    """With the 16 latent channels of the published model, on which inpainting insists."""
    made = sd3(in_channels=16, out_channels=16)
    return {**made, "vae": reconfigure(made["vae"], latent_channels=16)}


def sd3_with_controlnet(extra: int) -> dict[str, Any]:
    """With a ControlNet; that of inpainting sees a mask."""
    made = sd3()
    net = SD3ControlNetModel.from_transformer(
        made["transformer"], num_layers=1, num_extra_conditioning_channels=extra, load_weights_from_transformer=False
    )
    return {**made, "controlnet": wake(net)}


def wake(net: Any) -> Any:
    """A ControlNet of a transformer whose outputs, zero when it is made, are not."""
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_", "pos_embed_input")):
            torch.nn.init.normal_(weight, std=0.2)
    return net


def flux(**config: Any) -> dict[str, Any]:
    """Flux's parts, the transformer with another configuration."""
    made = dict(flows.flux().components)
    if config:
        made["transformer"] = reconfigure(made["transformer"], **config)
    return made


def flux_with_controlnet() -> dict[str, Any]:
    """With a ControlNet."""
    made = flux()
    net = FluxControlNetModel.from_transformer(
        made["transformer"], num_layers=1, num_single_layers=0, attention_head_dim=8, num_attention_heads=2,
        load_weights_from_transformer=False,
    )  # fmt: skip
    return {**made, "controlnet": wake(net)}


def redux() -> dict[str, Any]:
    """An image for a prompt."""
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    return {
        "image_encoder": SiglipVisionModel(config), "feature_extractor": SiglipImageProcessorPil(size={"height": 16,
        "width": 16}),
        "image_embedder": ReduxImageEncoder(redux_dim=16, txt_in_features=32),
    }  # fmt: skip


def chroma() -> dict[str, Any]:
    """Flux, with guidance by a second call."""
    torch.manual_seed(0)
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, axes_dims_rope=(2, 2, 4), approximator_hidden_dim=16, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    return {
        "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": flows.flow_vae(),
        "text_encoder": t5(), "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def aura() -> dict[str, Any]:
    """Registers beside the text."""
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=64,
    )  # fmt: skip
    return {
        "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": vae(),
        "text_encoder": t5(), "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def bria() -> dict[str, Any]:
    """Flux's blocks, T5 alone."""
    torch.manual_seed(0)
    transformer = BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, pooled_projection_dim=None, axes_dims_rope=[0, 4, 4],
    )  # fmt: skip
    return {
        "transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": flows.flow_vae(),
        "text_encoder": t5(), "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def cogview3() -> dict[str, Any]:
    """Sizes as conditions."""
    torch.manual_seed(0)
    transformer = CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
        text_embed_dim=2 * WIDTH, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8, sample_size=8,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae(), "scheduler": CogVideoXDDIMScheduler(), "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
    }  # fmt: skip


CASES = [
    case("StableDiffusion3Pipeline", sd3, **SIZE),
    case("StableDiffusion3Img2ImgPipeline", sd3, **FROM),
    case("StableDiffusion3InpaintPipeline", sd3_wide, mask_image=mask(), **FROM),
    case("StableDiffusion3PAGPipeline", sd3, pag_scale=0.7, **SIZE),
    case("StableDiffusion3PAGImg2ImgPipeline", sd3, pag_scale=0.7, **FROM),
    case("StableDiffusion3ControlNetPipeline", lambda: sd3_with_controlnet(0), control_image=photo(), **SIZE),
    case("StableDiffusion3ControlNetInpaintingPipeline", lambda: sd3_with_controlnet(1), control_image=photo(),
         control_mask=mask(), **SIZE),
    case("FluxPipeline", flux, **SHORT, **SIZE),
    case("FluxImg2ImgPipeline", flux, **SHORT, **FROM),
    case("FluxInpaintPipeline", flux, mask_image=mask(), **SHORT, **FROM),
    case("FluxFillPipeline", lambda: flux(in_channels=48, out_channels=16), image=photo(), mask_image=mask(), **SHORT,
         **SIZE),
    case("FluxControlPipeline", lambda: flux(in_channels=32, out_channels=16), control_image=photo(), **SHORT, **SIZE),
    case("FluxControlImg2ImgPipeline", lambda: flux(in_channels=32, out_channels=16), control_image=photo(seed=1),
         **SHORT,
         **FROM),
    case("FluxControlInpaintPipeline", lambda: flux(in_channels=32, out_channels=16), control_image=photo(seed=1),
         mask_image=mask(), **SHORT, **FROM),
    case("FluxControlNetPipeline", flux_with_controlnet, control_image=photo(), **SHORT, **SIZE),
    case("FluxControlNetImg2ImgPipeline", flux_with_controlnet, control_image=photo(seed=1), **SHORT, **FROM),
    case("FluxControlNetInpaintPipeline", flux_with_controlnet, control_image=photo(seed=1), mask_image=mask(), **SHORT,
         **FROM),
    case("FluxKontextPipeline", flux, image=photo(), max_area=256, _auto_resize=False, **SHORT, **SIZE),
    case("FluxKontextInpaintPipeline", flux, mask_image=mask(), max_area=256, _auto_resize=False, **SHORT, **FROM),
    case("FluxPriorReduxPipeline", redux, image=photo(), prompts=None,
         refused="expected a model that is called with a timestep"),
    case("ChromaPipeline", chroma, **SHORT, **SIZE),
    case("ChromaImg2ImgPipeline", chroma, **SHORT, **FROM),
    case("ChromaInpaintPipeline", chroma, refused="no attribute 'guidance_embeds'", mask_image=mask(), **SHORT, **FROM),
    case("AuraFlowPipeline", aura, **SHORT, **SIZE),
    case("BriaPipeline", bria, **SHORT, **SIZE),
    case("CogView3PlusPipeline", cogview3, **SHORT, **SIZE),
]  # fmt: skip
