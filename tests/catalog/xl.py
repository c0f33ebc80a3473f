"""Stable Diffusion XL and what is built around its UNet."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetUnionModel, ControlNetXSAdapter, DPMSolverMultistepScheduler, T2IAdapter
from transformers import BatchEncoding

from tests.catalog.cases import Case, case, mask, photo, reconfigure
from tests.catalog.stable import controlnet, inverted, wake
from tests.families import unets

__all__ = ["CASES"]

ETA: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2, "eta": 1.0}
FROM: dict[str, Any] = {"image": photo(), "num_inference_steps": 3, "strength": 0.7, "eta": 1.0}
SHAPED = {**FROM, "height": 16, "width": 16}
DRAWN = {"image": photo(), "control_image": photo(seed=1)}


def parts(**config: Any) -> dict[str, Any]:
    """SDXL's, with a UNet of another configuration."""
    made = unets.sdxl().components
    if config:
        made["unet"] = reconfigure(made["unet"], **config)
    return {**{name: part for name, part in made.items() if part is not None}, "pag_applied_layers": "mid"}


def with_controlnet(**config: Any) -> dict[str, Any]:
    """With a ControlNet."""
    made = parts(**config)
    return {**made, "controlnet": controlnet(parts()["unet"])}


def with_union() -> dict[str, Any]:
    """With a ControlNet for several kinds of conditions."""
    made = parts()
    net = ControlNetUnionModel.from_unet(made["unet"])
    sizes = {"num_trans_channel": 8, "num_trans_head": 2, "num_proj_channel": 8}
    small = reconfigure(net, conditioning_embedding_out_channels=(8, 8), **sizes)
    return {**made, "controlnet": wake(small)}


def xs() -> dict[str, Any]:
    """A ControlNet that talks back."""
    made = parts(layers_per_block=2)
    adapter = ControlNetXSAdapter.from_unet(
        made["unet"], size_ratio=1, num_attention_heads=2, conditioning_embedding_out_channels=(8, 8)
    )
    return {**made, "controlnet": wake(adapter)}


def with_adapter() -> dict[str, Any]:
    """With a T2I adapter."""
    torch.manual_seed(0)
    adapter = T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return {**parts(), "adapter": adapter}


class Letters:
    """A tokenizer for Kolors: a letter is a token, and places are counted."""

    model_max_length = 8

    def __call__(self, texts: Any, *, max_length: int = 8, **_: Any) -> Any:
        texts = [texts] if isinstance(texts, str) else texts
        rows = [[ord(letter) % 60 + 1 for letter in text][:max_length] for text in texts]
        rows = [[0] * (max_length - len(row)) + row for row in rows]
        ids = torch.tensor(rows)
        places = torch.arange(max_length).repeat(len(rows), 1)
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long(), "position_ids": places})


def kolors() -> dict[str, Any]:
    """A language model reads the prompt; the rest is SDXL's."""
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    width, made = 16, parts()
    torch.manual_seed(0)
    text = ChatGLMModel(ChatGLMConfig(
        num_layers=2, padded_vocab_size=64, hidden_size=width, ffn_hidden_size=width, kv_channels=8,
        num_attention_heads=2, seq_length=512, add_qkv_bias=True, multi_query_attention=True, original_rope=True,
    ))  # fmt: skip
    for weight in text.parameters():  # which it leaves uninitialized
        torch.nn.init.normal_(weight, std=0.3)
    unet = reconfigure(
        made["unet"], cross_attention_dim=width, encoder_hid_dim=width, encoder_hid_dim_type="text_proj",
        projection_class_embeddings_input_dim=6 * 4 + width,
    )  # fmt: skip
    return {**made, "text_encoder": text, "tokenizer": Letters(), "unet": unet}


def multistep() -> dict[str, Any]:
    """DPM-Solver++, as LEDITS++ has it."""
    return {**parts(), "scheduler": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)}


KOLORS = {"max_sequence_length": 8, "guidance_scale": 3.0}

CASES = [
    case("StableDiffusionXLPipeline", parts, **ETA),
    case("KolorsPipeline", kolors, **KOLORS, **ETA),
    case("KolorsImg2ImgPipeline", kolors, **KOLORS, **FROM),
    case("KolorsPAGPipeline", kolors, pag_scale=3.0, **KOLORS, **ETA),
    case("StableDiffusionXLImg2ImgPipeline", parts, **FROM),
    case("StableDiffusionXLInpaintPipeline", lambda: parts(in_channels=9), mask_image=mask(), **SHAPED),
    case("StableDiffusionXLInstructPix2PixPipeline", lambda: parts(in_channels=8), image=photo(), **ETA),
    case("StableDiffusionXLControlNetPipeline", with_controlnet, image=photo(), **ETA),
    case("StableDiffusionXLControlNetImg2ImgPipeline", with_controlnet, control_image=photo(seed=1), **FROM),
    case("StableDiffusionXLControlNetInpaintPipeline", with_controlnet, mask_image=mask(), control_image=photo(seed=1),
         **SHAPED),
    case("StableDiffusionXLControlNetUnionPipeline", with_union, control_image=photo(), control_mode=1, **ETA),
    case("StableDiffusionXLControlNetUnionImg2ImgPipeline", with_union, control_image=photo(seed=1), control_mode=1,
         **FROM),
    case("StableDiffusionXLControlNetUnionInpaintPipeline", with_union, mask_image=mask(), control_image=photo(seed=1),
         control_mode=1, **SHAPED),
    case("StableDiffusionXLControlNetXSPipeline", xs, image=photo(), **ETA),
    case("StableDiffusionXLAdapterPipeline", with_adapter, image=photo(), **ETA),
    case("StableDiffusionXLPAGPipeline", parts, pag_scale=3.0, **ETA),
    case("StableDiffusionXLPAGImg2ImgPipeline", parts, pag_scale=3.0, **FROM),
    case("StableDiffusionXLPAGInpaintPipeline", parts, pag_scale=3.0, mask_image=mask(), **SHAPED),
    case("StableDiffusionXLControlNetPAGPipeline", with_controlnet, pag_scale=3.0, image=photo(), **ETA),
    case("StableDiffusionXLControlNetPAGImg2ImgPipeline", with_controlnet, pag_scale=3.0, control_image=photo(seed=1),
         **FROM),
    case("TextToVideoZeroSDXLPipeline", parts, video_length=2, t0=1, t1=2, refused="Tensor.detach at .* cuts its graph",
         **{**ETA, "num_inference_steps": 3}),
    Case("LEditsPPPipelineStableDiffusionXL", lambda: inverted("LEditsPPPipelineStableDiffusionXL", multistep),
         {"editing_prompt": ["f"]}, None, refused="drew no Gaussian noise"),
]  # fmt: skip
