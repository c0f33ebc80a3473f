"""A tiny autoencoder for the same latents: diffusers' `AutoencoderTiny`, an imitation of the one that is shipped.

The decoder D learns what the trained decoder makes of a latent, not the real image, so it has one answer to learn and
stays crisp without a critic:

    loss = |D(z) - x'| + 4 (D(z) - x')^2 + |grad D(z) - grad x'| + features.

The encoder learns the latents themselves, by their mean square error. The decoder takes half the time of the large one,
which makes previews and gradients through it cheaper.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F

from training import autoencoder, clip, crisp, decoder, glyphs, latents, loop, precision
from training.settings import CRISP, TINY, WORK


def build() -> AutoencoderTiny:
    """The untrained model."""
    torch.manual_seed(6)
    return AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        encoder_block_out_channels=(24,) * 4,
        decoder_block_out_channels=(32,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(4, 3, 1, 0),  # full resolution is where the time goes
        latent_channels=8,
        scaling_factor=1.0,
    )


def train() -> None:
    """The stage `tiny`; it needs `decoder` and `clip`."""
    teacher = latents.load_frozen().to(memory_format=torch.channels_last)
    model, cache, sees = build(), latents.Cache(), clip.load_trained("clip")

    def loss(number: int) -> Tensor:
        codes, real = decoder.batch(cache, "tiny", number, TINY.batch)
        with torch.no_grad(), precision.half(TINY.half):
            goal = teacher.decode(codes).sample
        goal = goal.float().clamp(-1, 1)
        with precision.half(TINY.half):
            decoded = model.decode(codes).sample
            code = model.encode(real).latents
        decoded = decoded.float()
        total = autoencoder.distance(decoded, goal)
        with precision.half(TINY.half):
            alike = crisp.features(sees, decoded, goal, number)
        return total + crisp.balance(total, alike.float(), decoded, CRISP.feature) + F.mse_loss(code.float(), codes)

    @torch.no_grad()
    def sample() -> str:
        held, _ = glyphs.batch("heldout", 0, 256, autoencoder.ALL)
        codes = teacher.encode(held).latent_dist.mean
        decoded, goal = model.decode(codes).sample, teacher.decode(codes).sample
        both = torch.stack([held[:64], goal[:64], decoded[:64]], 1).flatten(0, 1)
        glyphs.sheet(both, 24).save(WORK / "tiny-samples.png")
        error = F.mse_loss(model.encode(held).latents, codes)
        near = autoencoder.psnr(decoded, goal).mean()
        return f"{decoder.describe(decoded, held)}, {near:.2f} dB to its teacher, error of its latents {error:.3f}"

    loop.Trainer("tiny", model, TINY, loss, sample).run()
