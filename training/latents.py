"""The frozen encoder and the latents the denoiser is trained on.

Freezing standardizes the latents: with mean m and deviation s of each channel over many images, the last
1 x 1 convolution of the encoder becomes (W z + b - m) / s and the first of the decoder undoes it. Pipelines
only multiply latents by `scaling_factor`; now 1 is right, and every channel is centered.

Latents are encoded once, in chunks of compositions, to `.training/latents/`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training import autoencoder, glyphs, loop
from training.glyphs import Scene
from training.settings import LATENTS, VERSION, WORK
from training.words import NOUNS

STREAM = f"denoiser-{VERSION.nouns}"


def nouns() -> tuple[str, ...]:
    """The nouns of this version's denoiser."""
    return tuple(NOUNS)[: VERSION.nouns]


@torch.no_grad()
def freeze() -> None:
    """Write the averaged autoencoder, its latents standardized, as the checkpoint `frozen`. Once and for all."""
    if loop.checkpoint("frozen").exists():
        print(f"{loop.checkpoint('frozen')} exists: the encoder stays as it is", flush=True)
        return
    model = autoencoder.build().eval()
    model.load_state_dict(loop.load_averaged("autoencoder"))
    pixels, _ = glyphs.batch("freeze", 0, 2048, autoencoder.ALL)
    codes = torch.cat([model.encode(part).latent_dist.mean for part in pixels.split(64)])
    before = model.decode(codes[:8]).sample
    mean, deviation = codes.mean((0, 2, 3)), codes.std((0, 2, 3))
    channels = len(mean)
    into, back = model.quant_conv, model.post_quant_conv
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= deviation[None, :, None, None]
    after = model.decode(model.encode(pixels[:8]).latent_dist.mean).sample
    spread = model.encode(pixels[:256]).latent_dist.std.mean((0, 2, 3))
    print(f"frozen: mean {mean.tolist()} deviation {deviation.tolist()}", flush=True)
    print(f"posterior deviation {spread.tolist()}, change {(after - before).abs().max():.1e}", flush=True)
    loop.save(loop.checkpoint("frozen"), {"average": model.state_dict()})


def load_frozen() -> AutoencoderKL:
    """The autoencoder with the frozen encoder and the best decoder there is."""
    model = autoencoder.build().eval().requires_grad_(False)
    model.load_state_dict(loop.load_averaged("frozen"))
    state = loop.load("decoder")
    if state is not None:
        weights = {n.removeprefix("vae."): p for n, p in state["average"].items() if n.startswith("vae.")}
        model.load_state_dict(weights, strict=False)
    return model


def _path(chunk: int) -> Path:
    return WORK / "latents" / f"{STREAM}-{chunk}.pt"


@torch.no_grad()
def encode() -> None:
    """The stage `latents`: encode the chunks that are not there yet; processes of one `torchrun` share the work."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    model = load_frozen().to(memory_format=torch.channels_last)
    for chunk in range(rank, LATENTS.chunks, world):
        if _path(chunk).exists():
            continue
        codes = []
        for first in range(chunk * LATENTS.chunk, (chunk + 1) * LATENTS.chunk, 64):
            pixels, _ = glyphs.batch(STREAM, first, 64, nouns())
            codes.append(model.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mean.half())
        loop.save(_path(chunk), {"latents": torch.cat(codes)})
        print(f"latents: chunk {chunk} of {LATENTS.chunks} encoded", flush=True)


class Cache:
    """All encoded compositions and their captions."""

    def __init__(self) -> None:
        parts = [torch.load(_path(chunk), weights_only=True)["latents"] for chunk in range(LATENTS.chunks)]
        self.latents = torch.cat(parts)

    def batch(self, indices: list[int]) -> tuple[Tensor, list[Scene]]:
        """Latents (N, 8, 8, 8) and what the images show."""
        return self.latents[indices].float(), [glyphs.describe(STREAM, index, nouns()) for index in indices]
