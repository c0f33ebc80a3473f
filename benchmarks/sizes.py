"""Pipelines of the size of Stable Diffusion 1.5 and SDXL, random weights, through the doctor's checks.

    python -m benchmarks.sizes            # bfloat16 on a GPU: SD 1.5 and SDXL, in both memory modes
    python -m benchmarks.sizes --toy      # the same code at toy size, anywhere, in float32

What it prints per pipeline and mode: every finding of `noiseward doctor`, and the time of a step and the peak memory as
multiples of those of a sample without a gradient. Weights are random, so that nothing is downloaded; what is checked
is that draws, seeds and gradients are as right at this size and precision as they are in the tests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from noiseward import DiffusersSampler, FunctionReward, GradientAscent
from noiseward.doctor import examine, verdict
from noiseward.options.run import Settings
from noiseward.problem import prepare
from tests.families import unets
from tests.families.text import clip_tokenizer

MEAN = FunctionReward(lambda sample: sample.float().flatten(1).mean(1), name="mean")


def text(width: int, layers: int, heads: int, *, projected: bool = False) -> Any:
    """A CLIP text encoder of a given size, reading the tests' letters."""
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=8, bos_token_id=52, eos_token_id=53, pad_token_id=53,
        projection_dim=width,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def autoencoder(size: int) -> Any:
    """The autoencoder both models have: 84 M weights."""
    blocks = 4
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=size,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
    )  # fmt: skip


def sd15() -> Any:
    """Stable Diffusion 1.5: a UNet of 860 M weights, 512 x 512 images."""
    return StableDiffusionPipeline(
        vae=autoencoder(512), text_encoder=text(768, 12, 12), tokenizer=clip_tokenizer(), scheduler=unets.ddim(),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> Any:
    """SDXL: a UNet of 2.6 G weights, 1024 x 1024 images."""
    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=6 * 256 + 1280,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=autoencoder(1024), text_encoder=text(768, 12, 12), text_encoder_2=text(1280, 32, 20, projected=True),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), scheduler=unets.ddim(), unet=unet,
        add_watermarker=False,
    )  # fmt: skip


def examine_pipeline(name: str, build: Callable[[], Any], memory: str, call: dict[str, Any], device: str) -> bool:
    """Print the findings and the cost of one pipeline in one memory mode; True when it is fit."""
    torch.manual_seed(0)
    pipe = build()
    pipe.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    weights = sum(weight.numel() for weight in pipe.unet.parameters()) / 1e6
    print(f"\n{name}: a UNet of {weights:.3g} M weights, {pipe.unet.dtype}, {device}, memory={memory}", flush=True)
    sampler = DiffusersSampler(pipe, memory=memory, eta=1.0, **call)
    problem = prepare(sampler, "a duck", MEAN, Settings(steps=1), method=GradientAscent())
    findings = []
    for finding in examine(problem):
        findings.append(finding)
        print(f"{'ok  ' if finding.fine else 'FAIL' if finding.must else 'note'}  {finding.says}", flush=True)

    def plain() -> None:
        with torch.no_grad():
            problem.objective(problem.noise)

    def step() -> None:
        noise = problem.noise.clone().requires_grad_()
        torch.autograd.grad(problem.objective(noise).value.sum(), noise)

    (slow, large), (quick, small) = _cost(step, device), _cost(plain, device)
    peak = f", {large / small:.2f} times its memory ({large / 1e9:.1f} GB)" if small else ""
    print(f"a step takes {slow / quick:.2f} times the time of a sample ({quick:.2f} s){peak}")
    print(f"verdict: {verdict(findings)}", flush=True)
    return all(finding.fine or not finding.must for finding in findings)


def _cost(do: Callable[[], None], device: str) -> tuple[float, int]:
    """Seconds and, on a GPU, peak bytes."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    do()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def main(arguments: list[str] | None = None) -> int:
    """Every pipeline in every mode; 0 when all are fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="toy size, anywhere")
    parser.add_argument("--steps", type=int, default=8, help="sampler steps")
    given = parser.parse_args(arguments)
    if not given.toy and not torch.cuda.is_available():
        parser.error("no GPU here: run with --toy")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {"SD 1.5": unets.sd1, "SDXL": unets.sdxl} if given.toy else {"SD 1.5": sd15, "SDXL": sdxl}
    size = {"height": 16, "width": 16} if given.toy else {}
    fit = [
        examine_pipeline(name, build, memory, {"num_inference_steps": given.steps, **size}, device)
        for name, build in models.items()
        for memory in ("fast", "balanced")
    ]
    return 0 if all(fit) else 1


if __name__ == "__main__":
    raise SystemExit(main())
