"""Large models of the last years, with embeddings instead of what reads their prompts."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImageTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    QwenImageControlNetModel,
    ZImageControlNetModel,
)

from tests.catalog.cases import Case, case, make_embedding, make_pipeline, photo
from tests.catalog.flow import wake
from tests.catalog.readers import flux2, qwen_image, z_image
from tests.families import flows
from tests.families.text import WIDTH

__all__ = ["CASES"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
SHORT = {"max_sequence_length": 8}


def hidream() -> dict[str, Any]:
    """Experts, of which a router picks two for each token; four readers."""
    torch.manual_seed(0)
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=2 * WIDTH, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1),
    )  # fmt: skip
    for name, weight in transformer.named_parameters():
        if name.endswith("gate.weight"):  # made of memory as it is
            torch.nn.init.normal_(weight, std=0.5)
    readers = {f"{kind}{part}": None for part in ("", "_2", "_3", "_4") for kind in ("text_encoder", "tokenizer")}
    return {
        "transformer": transformer, "vae": flows.flow_vae(), "scheduler": FlowMatchEulerDiscreteScheduler(), **readers,
    }  # fmt: skip


def small_hidream() -> Any:
    """Its pipeline brings all sizes to one area, which is a small one here."""
    pipe = make_pipeline("HiDreamImagePipeline", hidream())
    pipe.default_sample_size = 8
    return pipe


def hidream_texts() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, sign in enumerate(("", "negative_")):
        made[f"{sign}prompt_embeds_t5"] = make_embedding(1, 8, WIDTH, seed=number)
        made[f"{sign}prompt_embeds_llama3"] = make_embedding(2, 1, 8, WIDTH, seed=2 + number)
        made[f"{sign}pooled_prompt_embeds"] = make_embedding(1, 2 * WIDTH, seed=4 + number)
    return made


def hunyuan_video() -> dict[str, Any]:
    """Video, two streams then one, a causal autoencoder."""
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=WIDTH,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=4, scaling_factor=0.476986, spatial_compression_ratio=8, temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(), "text_encoder": None,
        "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None,
    }  # fmt: skip


def qwen_with_controlnet() -> dict[str, Any]:
    made = qwen_image()
    own = {name: value for name, value in made["transformer"].config.items() if not name.startswith("_")}
    names = inspect.signature(QwenImageControlNetModel.__init__).parameters
    net = QwenImageControlNetModel(**{name: value for name, value in own.items() if name in names})
    return {**made, "controlnet": wake(net)}


def z_image_with_controlnet() -> dict[str, Any]:
    made = z_image()
    net = ZImageControlNetModel(
        control_layers_places=[0], control_in_dim=4, all_patch_size=(2,), all_f_patch_size=(1,), dim=16,
        n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    )  # fmt: skip
    return {**made, "controlnet": wake(net)}


VIDEO = {
    "prompt_embeds": make_embedding(1, 8, WIDTH), "pooled_prompt_embeds": make_embedding(1, 8),
    "prompt_attention_mask": torch.ones(1, 8), "height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2,
}  # fmt: skip
CASES = [
    Case("HiDreamImagePipeline", small_hidream, {**hidream_texts(), **SIZE}, None),
    case("HunyuanVideoPipeline", hunyuan_video, prompts=None, **VIDEO),
    case("Flux2Pipeline", lambda: {**flux2(guidance_embeds=True), "text_encoder": None, "tokenizer": None},
         prompts=None, prompt_embeds=make_embedding(1, 8, 3 * WIDTH), **SIZE),
    case("QwenImageControlNetPipeline", qwen_with_controlnet, control_image=photo(), negative_prompt="f", **SHORT,
         **SIZE),
    case("ZImageControlNetPipeline", z_image_with_controlnet, control_image=photo(), **SHORT, **SIZE),
]  # fmt: skip
