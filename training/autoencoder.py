"""The autoencoder: 64 x 64 pixels to 8 x 8 latents of 8 channels and back.

loss = |x - x'| + 4 (x - x')^2 + |grad x - grad x'| + beta KL(q(z | x) || N(0, 1)), each a mean over its
elements. The KL weight is small: it keeps the latents smooth enough for a denoiser without costing edges.

The stage `autoencoder` trains both halves; then the encoder is frozen for good, because the denoiser learns
its latents, and the stage `decoder` continues with the decoder alone.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from training import glyphs, loop
from training.settings import AUTOENCODER, WORK
from training.words import NOUNS

ALL = tuple(NOUNS)


def build() -> AutoencoderKL:
    """The untrained autoencoder."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=1.0,  # the latents are standardized when the encoder is frozen
    )


def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighboring pixels, along x and along y."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def distance(decoded: Tensor, real: Tensor) -> Tensor:
    """The reconstruction loss."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(slopes(decoded), slopes(real), strict=True))
    return F.l1_loss(decoded, real) + 4 * F.mse_loss(decoded, real) + edges


def psnr(decoded: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image (pixels in [-1, 1]: the peak is 2)."""
    error = (decoded.clamp(-1, 1) - real).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def show(name: str, model: AutoencoderKL) -> str:
    """Held-out images and their reconstructions, side by side; returns what was measured."""
    held, _ = glyphs.batch("heldout", 0, 64, ALL)
    code = model.encode(held).latent_dist.mean
    decoded = model.decode(code).sample
    glyphs.sheet(torch.stack([held[:32], decoded[:32]], 1).flatten(0, 1), 8).save(WORK / f"{name}-samples.png")
    return f"held-out PSNR {psnr(decoded, held).mean():.2f} dB, latent deviation {code.std():.2f}"


def batch(name: str, number: int, count: int) -> Tensor:
    """The images of a training step, in the memory format that is fast here."""
    real, _ = glyphs.batch(name, number * count, count, ALL)
    return real.contiguous(memory_format=torch.channels_last)


def draw(code: DiagonalGaussianDistribution, number: int) -> Tensor:
    """A draw from the posterior, seeded by the step."""
    return code.mean + code.std * torch.randn(code.mean.shape, generator=torch.Generator().manual_seed(number))


def train() -> None:
    """The stage `autoencoder`."""
    torch.manual_seed(1)
    model = build().to(memory_format=torch.channels_last)

    def loss(number: int) -> Tensor:
        real = batch("autoencoder", number, AUTOENCODER.batch)
        code = model.encode(real).latent_dist
        divergence = 0.5 * (code.mean.square() + code.var - 1 - code.logvar).mean()
        return distance(model.decode(draw(code, number)).sample, real) + 1e-4 * divergence

    loop.Trainer("autoencoder", model, AUTOENCODER, loss, lambda: show("autoencoder", model)).run()
