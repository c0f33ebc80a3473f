"""Image models whose text a language model reads: Lumina, Sana, PixArt, Z-Image, Qwen-Image, Flux 2, and others."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    OvisImageTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaControlNetModel,
    SCMScheduler,
    ZImageTransformer2DModel,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GemmaConfig,
    GemmaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.catalog.cases import case, mask, photo, reconfigure
from tests.catalog.flow import wake
from tests.families import flows, unets
from tests.families.text import LETTERS, WIDTH, t5, t5_tokenizer

__all__ = ["CASES", "qwen_tokenizer", "qwen_vl"]

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}
FROM: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 3, "image": photo(), "strength": 0.7}
SHORT = {"max_sequence_length": 8}
CHAT = (
    "{% for m in messages %}<|im_start|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
)
MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def qwen_tokenizer() -> Any:
    """Characters, and the marks of a chat."""
    characters = [*LETTERS, *map(chr, range(65, 91)), *"0123456789.,:;!?'\"<>|_/-()*#", "Ġ", "Ċ"]
    vocab = {word: k for k, word in enumerate([*characters, *MARKS])}
    made = Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=list(MARKS[1:]),
    )  # fmt: skip
    made.chat_template = CHAT
    return made


def qwen3(*, head: bool = False, layers: int = 2) -> Any:
    """A small Qwen 3."""
    config = Qwen3Config(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip
    return Qwen3ForCausalLM(config) if head else Qwen3Model(config)


def qwen_vl() -> Any:
    """A small Qwen 2.5 that sees."""
    text = {
        "vocab_size": 128, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}, "rope_theta": 10_000.0,
    }  # fmt: skip
    sight = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0], "window_size": 14,
    }  # fmt: skip
    ids = {
        f"{name}_token_id": 110 + k for k, name in enumerate(("image", "video", "vision_start", "vision_end", "vision"))
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sight, **ids))


def gemma() -> dict[str, Any]:
    """Gemma 2 and its tokenizer, as Sana has them."""
    parts = flows.sana().components
    return {"text_encoder": parts["text_encoder"], "tokenizer": parts["tokenizer"]}


def causal_gemma() -> dict[str, Any]:
    """Gemma, and the same tokenizer."""
    config = GemmaConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return {**gemma(), "text_encoder": GemmaForCausalLM(config).model}


def lumina() -> dict[str, Any]:
    """Next-DiT."""
    torch.manual_seed(0)
    transformer = LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_attention_heads=2, num_kv_heads=1,
        multiple_of=8, ffn_dim_multiplier=None, norm_eps=1e-5, learn_sigma=True, qk_norm=True,
        cross_attention_dim=WIDTH, scaling_factor=1.0,
    )  # fmt: skip
    return {"transformer": transformer, "vae": unets.vae(), "scheduler": FlowMatchEulerDiscreteScheduler(), **gemma()}


def lumina2() -> dict[str, Any]:
    """One stream of text and image."""
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, ffn_dim_multiplier=None, norm_eps=1e-5,
        scaling_factor=1.0, axes_dim_rope=[4, 2, 2], cap_feat_dim=WIDTH,
    )  # fmt: skip
    return {
        "transformer": transformer,
        "vae": flows.flow_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        **gemma(),
    }


def sana(**config: Any) -> dict[str, Any]:
    """Sana's parts."""
    made = dict(flows.sana().components)
    if config:
        made["transformer"] = reconfigure(made["transformer"], **config)
    return {**made, "pag_applied_layers": "transformer_blocks.0"}


def sana_with_controlnet() -> dict[str, Any]:
    """With a ControlNet."""
    made = sana()
    own = {name: value for name, value in made["transformer"].config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    known = SanaControlNetModel.__init__.__wrapped__.__code__.co_varnames
    net = SanaControlNetModel(**{name: value for name, value in own.items() if name in known})
    for name, weight in net.named_parameters():
        if "zero" in name or name.startswith(("input_block", "controlnet_blocks")):
            torch.nn.init.normal_(weight, std=0.2)
    return {**made, "controlnet": net}


def sprint() -> dict[str, Any]:
    """Sana in one to four steps."""
    return {**sana(guidance_embeds=True, qk_norm="rms_norm_across_heads"), "scheduler": SCMScheduler()}


def pixart(**config: Any) -> dict[str, Any]:
    """PixArt's parts."""
    return {**flows.pixart().components, "pag_applied_layers": "blocks.0"}


def hunyuan() -> dict[str, Any]:
    """BERT and T5 read."""
    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        cross_attention_dim=WIDTH, cross_attention_dim_t5=2 * WIDTH, pooled_projection_dim=4, hidden_size=16,
        activation_fn="gelu-approximate", text_len=77, text_len_t5=256,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    bert = BertConfig(
        vocab_size=64, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    tokenizer = BertTokenizer(vocab={word: k for k, word in enumerate(words)}, model_max_length=77)
    return {
        "transformer": transformer, "vae": unets.vae(), "scheduler": unets.ddim(), "text_encoder": BertModel(bert),
        "tokenizer": tokenizer, "text_encoder_2": t5(), "tokenizer_2": t5_tokenizer(), "pag_applied_layers": "blocks.1",
    }  # fmt: skip


def hunyuan_with_controlnet() -> dict[str, Any]:
    """With a ControlNet, whose control image the pipeline encodes without its generator."""
    made = hunyuan()
    net = HunyuanDiT2DControlNetModel(
        conditioning_channels=4, sample_size=8, transformer_num_layers=2, patch_size=2, attention_head_dim=8,
        num_attention_heads=2, in_channels=4, cross_attention_dim=WIDTH, cross_attention_dim_t5=2 * WIDTH,
        pooled_projection_dim=4, hidden_size=16, activation_fn="gelu-approximate", text_len=77, text_len_t5=256,
    )  # fmt: skip
    return {**made, "controlnet": wake(net)}


def z_image() -> dict[str, Any]:
    """One stream, lists of images and texts."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 2, 2], axes_lens=[256, 32, 32],
    )  # fmt: skip
    for name in ("x_pad_token", "cap_pad_token"):  # made of memory as it is
        torch.nn.init.normal_(getattr(transformer, name), std=0.02)
    return {
        "transformer": transformer, "vae": flows.flow_vae(), "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": qwen3(), "tokenizer": qwen_tokenizer(),
    }  # fmt: skip


def qwen_image() -> dict[str, Any]:
    """Two streams, the autoencoder of a video model."""
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, guidance_embeds=False, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, attn_scales=[], temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": qwen_vl(), "tokenizer": qwen_tokenizer(),
    }  # fmt: skip


def flux2(**config: Any) -> dict[str, Any]:
    """Flux 2: Klein, which Qwen 3 reads for."""
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(**{
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": 3 * WIDTH, "timestep_guidance_channels": 16,
        "axes_dims_rope": (2, 2, 2, 2), "guidance_embeds": False, **config,
    })  # fmt: skip
    vae = AutoencoderKLFlux2(
        sample_size=16, in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16), layers_per_block=1, latent_channels=4,
        norm_num_groups=8,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": qwen3(head=True, layers=4), "tokenizer": qwen_tokenizer(), "is_distilled": False,
    }  # fmt: skip


def cogview4() -> dict[str, Any]:
    """GLM reads."""
    from transformers import GlmConfig, GlmModel

    torch.manual_seed(0)
    transformer = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
        text_embed_dim=WIDTH, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    config = GlmConfig(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": flows.flow_vae(), "text_encoder": GlmModel(config),
        "tokenizer": qwen_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True,
        time_shift_type="linear"),
    }  # fmt: skip


def ovis() -> dict[str, Any]:
    """Flux's blocks, Qwen 3 reads."""
    torch.manual_seed(0)
    transformer = OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": flows.flow_vae(), "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": qwen3(), "tokenizer": qwen_tokenizer(),
    }  # fmt: skip


PLAIN = {"use_resolution_binning": False, "clean_caption": False}
SANA = {"height": 32, "width": 32, "num_inference_steps": 2, "complex_human_instruction": None, **PLAIN, **SHORT}
CASES = [
    case("LuminaPipeline", lumina, clean_caption=False, **SHORT, **SIZE),
    case("Lumina2Pipeline", lumina2, **SHORT, **SIZE),
    case("SanaPipeline", sana, **SANA),
    case("SanaPAGPipeline", sana, pag_scale=3.0, **SANA),
    case("SanaControlNetPipeline", sana_with_controlnet, control_image=photo(32), **SANA),
    case("SanaSprintPipeline", sprint, **SANA),
    case("SanaSprintImg2ImgPipeline", sprint, image=photo(32), **SANA),
    case("PixArtAlphaPipeline", pixart, **PLAIN, **SHORT, **SIZE),
    case("PixArtSigmaPipeline", pixart, **PLAIN, **SHORT, **SIZE),
    case("PixArtSigmaPAGPipeline", pixart, pag_scale=3.0, **PLAIN, **SHORT, **SIZE),
    case("HunyuanDiTPipeline", hunyuan, use_resolution_binning=False, **SIZE),
    case("HunyuanDiTPAGPipeline", hunyuan, pag_scale=3.0, use_resolution_binning=False, **SIZE),
    case("HunyuanDiTControlNetPipeline", hunyuan_with_controlnet, control_image=photo(), use_resolution_binning=False,
         **SIZE),
    case("ZImagePipeline", z_image, **SHORT, **SIZE),
    case("ZImageImg2ImgPipeline", z_image, **SHORT, **FROM),
    case("ZImageInpaintPipeline", z_image, mask_image=mask(), **SHORT, **FROM),
    case("QwenImagePipeline", qwen_image, negative_prompt="f", **SHORT, **SIZE),
    case("QwenImageImg2ImgPipeline", qwen_image, negative_prompt="f", **SHORT, **FROM),
    case("QwenImageInpaintPipeline", qwen_image, mask_image=mask(), **SHORT, **FROM),
    case("Flux2KleinPipeline", flux2, text_encoder_out_layers=(1, 2, 3), **SHORT, **SIZE),
    case("Flux2KleinKVPipeline", flux2, text_encoder_out_layers=(1, 2, 3), **SHORT, **SIZE),
    case("CogView4Pipeline", cogview4, negative_prompt="f", **SHORT, **SIZE),
    case("CogView4ControlPipeline", lambda: {**cogview4(), "transformer": reconfigure(cogview4()["transformer"],
         in_channels=8)},
         control_image=photo(), negative_prompt="f", **SHORT, **SIZE),
    case("OvisImagePipeline", ovis, **SHORT, **SIZE),
]  # fmt: skip
