"""What models need on a card, counted on torch's meta device: `pipelines/needs.toml` and docs/my-card.md.

For each model the denoiser's call and the decoder are run on shapes alone at full size, as in `counted.py`, and weights
are counted: of linear layers, which can be quantized, of the rest, and of text encoders, by their published size. How
the parts add up to a setting is in `noiseward/pipelines/fit.py`, which `noiseward doctor --fit` uses as well.

    python -m benchmarks.cards              # counts all models and writes both files
    python -m benchmarks.cards NAME ...     # counts some, and prints
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks import sizes
from benchmarks.counted import cost, count_alive
from experiments.support import insert
from noiseward.pipelines.blocks import recompute_blocks
from noiseward.pipelines.fit import Needs, Setting, list_settings
from noiseward.samplers.blocks import find_blocks, recompute_model
from noiseward.samplers.cost import Meter
from noiseward.samplers.recompute import recompute_call

ROOT = Path(__file__).resolve().parents[1]
NEEDS, PAGE = ROOT / "src/noiseward/pipelines/needs.toml", ROOT / "docs/my-card.md"
CARDS = (8, 12, 16, 24, 48, 80)  # GB
# What the models that most people run are to take at most, in some of the precisions.
GOALS: dict[str, tuple[float, tuple[str, ...]]] = {
    "sd15": (4e9, ("bfloat16",)), "sdxl": (10e9, ("bfloat16",)), "flux-dev": (16e9, ("NF4",)),
}  # fmt: skip
LIKE: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16}
# Weights of text encoders, by their published sizes.
CLIP_L, CLIP_H, CLIP_G, T5_XXL = 0.123e9, 0.354e9, 0.695e9, 4.76e9
GEMMA_2B, QWEN_4B, QWEN_VL_7B = 2.61e9, 4.02e9, 8.29e9

Call = Callable[[Tensor], Any]


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, **LIKE)


def image_vae(channels: int = 4, *, quant: bool = True) -> Any:
    """The decoder of Stable Diffusion, SDXL, SD 3 and Flux."""
    from diffusers import AutoencoderKL

    blocks = 4
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        use_quant_conv=quant, use_post_quant_conv=quant,
    )  # fmt: skip


def unet(model: Any, side: int, *, rows: int = 2) -> tuple[Module, Call, Tensor, Any, int]:
    """A UNet, of two rows with guidance; a model's denoiser, its call, its latent, its autoencoder, calls per step."""
    more: dict[str, Any] = {"encoder_hidden_states": empty(rows, 77, model.config.cross_attention_dim)}
    if model.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": empty(rows, 1280), "time_ids": empty(rows, 6)}
    if model.config.time_cond_proj_dim:
        more["timestep_cond"] = empty(rows, model.config.time_cond_proj_dim)
    time = torch.empty((), device="meta")
    return model, lambda x: model(torch.cat([x] * rows), time, **more).sample, empty(1, 4, side, side), image_vae(), 1


def sd15(side: int, **config: Any) -> Any:
    """The UNet of Stable Diffusion 1, and of 2 with other numbers."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=side, **{"cross_attention_dim": 768, **config})


SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}


def dit() -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, out_channels=8, num_layers=28)
    labels, time = torch.empty(2, dtype=torch.long, device="meta"), empty(2)
    return (
        model, lambda x: model(torch.cat([x, x]), timestep=time, class_labels=labels).sample, empty(1, 4, 32, 32),
        image_vae(), 1,
    )  # fmt: skip


def sd3(layers: int, **config: Any) -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=128, num_layers=layers, attention_head_dim=64, num_attention_heads=layers,
        caption_projection_dim=64 * layers, joint_attention_dim=4096, pooled_projection_dim=2048, out_channels=16,
        **config,
    )  # fmt: skip
    words, pooled, time = empty(2, 333, 4096), empty(2, 2048), empty(2)
    return (
        model, lambda x: model(torch.cat([x, x]), words, pooled, time).sample, empty(1, 16, 128, 128),
        image_vae(16, quant=False), 1,
    )  # fmt: skip


def flux(words_read: int, *, guidance: bool) -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(guidance_embeds=guidance)
    words, pooled, one = empty(1, words_read, 4096), empty(1, 768), empty(1)
    places, order = empty(4096, 3), empty(words_read, 3)

    def call(x: Tensor) -> Tensor:
        return model(x, words, pooled, one, places, order, one if guidance else None).sample

    return model, call, empty(1, 4096, 64), image_vae(16, quant=False), 1


def qwen_image() -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel()
    words, one = empty(1, 128, 3584), empty(1)

    def call(x: Tensor) -> Tensor:
        return model(x, encoder_hidden_states=words, timestep=one, img_shapes=[[(1, 64, 64)]]).sample

    return model, call, empty(1, 4096, 64), AutoencoderKLQwenImage(), 2  # with true guidance


def z_image() -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel()
    words, one = empty(128, 2560), empty(1)

    def call(x: Tensor) -> Tensor:
        return model([x[0][:, None]], one, [words]).sample[0][None]

    return model, call, empty(1, 16, 128, 128), image_vae(16, quant=False), 1


def pixart() -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        sample_size=128, num_layers=28, caption_channels=4096, use_additional_conditions=False, out_channels=8
    )
    words, time, sizes_known = empty(2, 300, 4096), empty(2), {"resolution": None, "aspect_ratio": None}

    def call(x: Tensor) -> Tensor:
        return model(
            torch.cat([x, x]), encoder_hidden_states=words, timestep=time, added_cond_kwargs=sizes_known
        ).sample

    return model, call, empty(1, 4, 128, 128), image_vae(), 1


def sana() -> tuple[Module, Call, Tensor, Any, int]:
    from diffusers import AutoencoderDC, SanaTransformer2DModel

    model = SanaTransformer2DModel()
    words, time = empty(2, 300, 2304), empty(2)
    vae = AutoencoderDC(
        latent_channels=32, encoder_block_out_channels=(128, 256, 512, 512, 1024, 1024),
        decoder_block_out_channels=(128, 256, 512, 512, 1024, 1024), encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
        encoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        encoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)), decoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
    )  # fmt: skip
    return model, lambda x: model(torch.cat([x, x]), words, time).sample, empty(1, 32, 32, 32), vae, 1


# Card: what is built, image, sampler steps, text encoders.
MODELS: dict[str, tuple[Callable[[], Any], str, int, tuple[float, ...]]] = {
    "sd15": (lambda: unet(sd15(64), 64), "512 x 512", 50, (CLIP_L,)),
    "lcm": (lambda: unet(sd15(96, time_cond_proj_dim=256), 96, rows=1), "768 x 768", 4, (CLIP_L,)),
    "sd21": (lambda: unet(sd15(96, **SD21), 96), "768 x 768", 50, (CLIP_H,)),
    "sd-turbo": (lambda: unet(sd15(64, **SD21), 64, rows=1), "512 x 512", 1, (CLIP_H,)),
    "sdxl": (lambda: unet(sizes.sdxl().unet, 128), "1024 x 1024", 30, (CLIP_L, CLIP_G)),
    "sdxl-turbo": (lambda: unet(sizes.sdxl().unet, 64, rows=1), "512 x 512", 1, (CLIP_L, CLIP_G)),
    "sd3": (lambda: sd3(24, pos_embed_max_size=192), "1024 x 1024", 28, (CLIP_L, CLIP_G, T5_XXL)),
    "sd35-medium": (
        lambda: sd3(24, pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm"),
        "1024 x 1024", 40, (CLIP_L, CLIP_G, T5_XXL),
    ),
    "sd35-large": (
        lambda: sd3(38, pos_embed_max_size=192, qk_norm="rms_norm"), "1024 x 1024", 28, (CLIP_L, CLIP_G, T5_XXL)
    ),
    "flux-dev": (lambda: flux(512, guidance=True), "1024 x 1024", 20, (CLIP_L, T5_XXL)),
    "flux-schnell": (lambda: flux(256, guidance=False), "1024 x 1024", 4, (CLIP_L, T5_XXL)),
    "qwen-image": (qwen_image, "1024 x 1024", 20, (QWEN_VL_7B,)),
    "z-image": (z_image, "1024 x 1024", 9, (QWEN_4B,)),
    "pixart-sigma": (pixart, "1024 x 1024", 20, (T5_XXL,)),
    "sana": (sana, "1024 x 1024", 20, (GEMMA_2B,)),
    "dit": (dit, "256 x 256", 25, ()),
}  # fmt: skip


def count(name: str) -> Needs:
    """Count one model."""
    build, size, steps, texts = MODELS[name]
    with torch.device("meta"):
        model, call, like, vae, calls = build()
    for part in (model, vae):
        part.to(torch.bfloat16).eval().requires_grad_(False)
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    weights = sum(weight.numel() for weight in model.parameters())
    quantized = sum(layer.weight.numel() for layer in linear)
    blocks = [sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Linear))
              for block in find_blocks(model)]  # fmt: skip
    pixels = [int(side) for side in size.split(" x ")]
    latent = decoded_latent(vae, pixels)

    def blockwise(x: Tensor) -> Any:
        with recompute_blocks(model):
            return call(x)

    def decode(x: Tensor) -> Tensor:
        return vae.decode(x, return_dict=False)[0]

    def decode_low(x: Tensor) -> Tensor:
        with recompute_blocks(vae, strips=True):
            return decode(x)

    return Needs(
        name=name, size=size, steps=steps, calls=calls, linear=quantized, other=weights - quantized,
        largest=max(layer.weight.numel() for layer in linear), block=max(blocks, default=quantized), texts=texts,
        vae=sum(weight.numel() for weight in vae.parameters()), latent=like.numel(),
        kept=count_alive(lambda: call(fresh(like))), balanced=peak(recomputed(call), like),
        low=peak(recomputed(blockwise), like), decoder=peak(decode, latent), decoder_low=peak(decode_low, latent),
        decoder_forward=forward(decode, latent), decoder_tiny=tiny(latent, pixels),
        decoder_half=half(decode, latent),
    )  # fmt: skip


def decoded_latent(vae: Any, pixels: list[int]) -> Tensor:
    kind, channels = type(vae).__name__, vae.config.get("latent_channels") or vae.config.z_dim
    step = 32 if kind == "AutoencoderDC" else 8
    sides = (pixels[0] // step, pixels[1] // step)
    return empty(1, channels, *((1, *sides) if kind == "AutoencoderKLQwenImage" else sides))


def tiny(latent: Tensor, pixels: list[int]) -> float:
    """What the gradient through a tiny decoder takes; 0 where there is none for such latents."""
    from diffusers import AutoencoderTiny

    if latent.ndim != 4 or pixels[0] // latent.shape[2] != 8:
        return 0.0
    with torch.device("meta"):
        model = AutoencoderTiny(latent_channels=latent.shape[1]).to(torch.bfloat16).eval().requires_grad_(False)
    return peak(lambda x: model.decode(x).sample, latent)


def half(decode: Call, latent: Tensor) -> float:
    """What the gradient through the own decoder takes at half size; 0 for one of video."""
    return (
        0.0 if latent.ndim != 4 else peak(decode, empty(*latent.shape[:2], *(side // 2 for side in latent.shape[2:])))
    )


def fresh(like: Tensor) -> Tensor:
    return torch.empty_like(like).requires_grad_()


def recomputed(call: Call) -> Call:
    return lambda x: recompute_call(call, Meter(), (x,), {})


def peak(call: Call, like: Tensor) -> float:
    """The most bytes that a call and its gradient take, weights aside."""

    def run() -> None:
        x = fresh(like)
        out = call(x)
        torch.autograd.grad(out, x, torch.empty_like(out))

    return cost(run)[1]


def forward(call: Call, like: Tensor) -> float:
    def run() -> None:
        with torch.no_grad():
            call(fresh(like))

    return cost(run)[1]


def count_reward() -> Mapping[str, float]:
    """A reward on CLIP ViT-H, 1 B weights, for one image: its weights and what its gradient takes."""
    config = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
        projection_dim=1024,
    )  # fmt: skip
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    image = torch.empty(1, 3, 224, 224, device="meta")

    def call(x: Tensor) -> Tensor:
        return model(pixel_values=x).image_embeds

    def low(x: Tensor) -> Tensor:
        with recompute_model(model):
            return call(x)

    return {
        "weights": 4.0 * (sum(weight.numel() for weight in model.parameters()) + CLIP_H),
        "gradient": peak(call, image),
        "recomputed": peak(low, image),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MODELS, []], help="some models; default: all, and write")
    given = parser.parse_args()
    found = {}
    for name in given.names or MODELS:
        found[name] = count(name)
        print(found[name].to_toml(), flush=True)
        for size in CARDS:
            for setting in list_settings(found[name], 1e9 * size):
                print(f"  {size} GB: {setting.describe()}, {setting.bytes / 1e9:.1f} GB", flush=True)
    if given.names:
        return
    head = "# What models need on a card, in weights and bytes: computed, by `python -m benchmarks.cards`.\n\n"
    NEEDS.write_text(head + "\n".join(needs.to_toml() for needs in found.values()), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found, count_reward()), encoding="utf-8")


def page(text: str, found: Mapping[str, Needs], reward: Mapping[str, float]) -> str:
    """The page with its tables."""
    head = "| model | image | sampler steps | weights | " + " | ".join(f"{size} GB" for size in CARDS) + " |"
    lines = [head, "| --- " * (4 + len(CARDS)) + "|"]
    for name, needs in found.items():
        weights = needs.linear + needs.other + needs.vae + sum(needs.texts)
        cells = [cell(needs, 1e9 * size) for size in CARDS]
        parts = [f"`{name}`", needs.size, str(needs.steps), f"{weights / 1e9:.1f} B", *cells]
        lines.append(f"| {' | '.join(parts)} |")
    goals = ["| goal | takes | setting |", "| --- | --- | --- |"]
    for name, (most, precisions) in GOALS.items():
        best = list_settings(found[name], most, precisions)
        takes = f"{best[0].bytes / 1e9:.1f} GB | {best[0].describe()}" if best else "**more** |"
        goals.append(f"| `{name}`, {found[name].steps} steps, {most / 1e9:.0f} GB | {takes} |")
    gigabytes = {part: f"{size / 1e9:.1f}" for part, size in reward.items()}
    alone = found["sdxl"].bytes_of(precision="bfloat16", memory="low", offload="models", decoder=None)
    beside = alone + reward["weights"]  # which stay; its gradient is gone before the decoder's comes
    note = (
        f"A reward on CLIP ViT-H (PickScore, HPSv2; 1 B weights) adds {gigabytes['weights']} GB of weights in float32 "
        f"and {gigabytes['gradient']} GB for its gradient, {gigabytes['recomputed']} GB with `recompute=true`; nothing "
        f'with `device=cpu`. Next to it, SDXL with `memory="low"` and `offload="models"` takes {beside / 1e9:.1f} GB '
        f"instead of {alone / 1e9:.1f} GB."
    )
    for mark, table in (("cards", "\n".join(lines)), ("goals", "\n".join(goals)), ("reward", note)):
        text = insert(text, mark, table)
    return text


def cell(needs: Needs, available: float) -> str:
    """The best setting in bfloat16 and, where that has to fetch layers or does not fit, in few bits."""
    settings = list_settings(needs, available)
    plain = [one for one in settings if one.precision == "bfloat16"]
    if plain and plain[0].offload != "layers":
        return short(plain[0])
    quantized = [one for one in settings if one.precision != "bfloat16" and one.offload != "layers"]
    return " or ".join(map(short, [*quantized[:1], *plain])) or "no"


def short(setting: Setting) -> str:
    parts = [setting.memory, setting.offload, setting.decoder]
    parts = [setting.precision if setting.precision != "bfloat16" else None, *parts]
    return ", ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
