"""The decoder, trained on alone against the frozen encoder.

The denoiser depends on the encoder only, so outlines can become crisper while it trains, and after. The encoder never
saw the nouns of later versions, but tells them apart; the decoder learns what they look like. It sees the denoiser's
cached latents with a little noise, because those that a denoiser draws are not quite those of an encoder.

At first the loss is the autoencoder's without the KL term. From step `CRISP.begin` on, the feature loss and the critic
of `crisp.py` join, each weighted such that its gradient at the image is a share of that of the first loss; the share
of the critic grows to what it stays at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training import autoencoder, clip, crisp, glyphs, latents, loop, precision, sharpness
from training.settings import CRISP, DECODER, LATENTS, WORK


def batch(cache: latents.Cache, name: str, number: int, count: int) -> tuple[Tensor, Tensor]:
    """Latents with noise and real images of a training step; the stage's name is in the seed."""
    generator = torch.Generator().manual_seed(number + 1_000_003 * sum(name.encode()))
    indices = torch.randint(LATENTS.chunk * LATENTS.chunks, (count,), generator=generator).tolist()
    codes, scenes = cache.batch(indices)
    strength = CRISP.noise * torch.rand(count, 1, 1, 1, generator=generator)
    real = glyphs.render(scenes).contiguous(memory_format=torch.channels_last)
    return codes + strength * torch.randn(codes.shape, generator=generator), real


def describe(decoded: Tensor, real: Tensor) -> str:
    """PSNR and edge widths in words."""
    width, goal = sharpness.edge_width(decoded).mean(), sharpness.edge_width(real).mean()
    return f"held-out PSNR {autoencoder.psnr(decoded, real).mean():.2f} dB, edge width {width:.2f} (real {goal:.2f})"


def show(name: str, model: nn.Module) -> str:
    """Held-out images and their reconstructions, side by side; returns what was measured."""
    decoded, real = [], []
    for first in range(0, 512, 64):
        held, _ = glyphs.batch("heldout", first, 64, autoencoder.ALL)
        decoded.append(model.decode(model.encode(held).latent_dist.mean).sample)
        real.append(held)
    both = torch.stack([real[0], decoded[0]], 1).flatten(0, 1)
    glyphs.sheet(both, 16).save(WORK / f"{name}-samples.png")
    return describe(torch.cat(decoded), torch.cat(real))


def networks() -> nn.ModuleDict:
    """What is trained: the decoder's half of `vae`, and `critic`."""
    model = latents.load_frozen().to(memory_format=torch.channels_last)
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(True)
    return nn.ModuleDict({"vae": model, "critic": crisp.critic()})


def train() -> None:
    """The stage `decoder`; it needs `clip`."""
    parts, cache = networks(), latents.Cache()
    model, critic = parts["vae"], parts["critic"]
    sees = clip.load_trained("clip")

    def loss(number: int) -> Tensor:
        codes, real = batch(cache, "decoder", number, DECODER.batch)
        with precision.half(DECODER.half):
            decoded = model.decode(codes).sample
        decoded = decoded.float()
        total = autoencoder.distance(decoded, real)
        if number < CRISP.begin:
            return total
        with precision.half(DECODER.half):
            alike = crisp.features(sees, decoded, real, number)
            fools, learns = crisp.verdicts(critic, decoded, real)
        feature = crisp.balance(total, alike.float(), decoded, CRISP.feature)
        ramp = min(1.0, (number - CRISP.begin) / CRISP.growth)
        critical = crisp.balance(total, fools.float(), decoded, ramp * CRISP.adversary)
        return total + feature + critical + learns.float()

    loop.Trainer("decoder", parts, DECODER, loss, lambda: show("decoder", model)).run()
