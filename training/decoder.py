"""The decoder, trained on alone against the frozen encoder.

The denoiser depends on the encoder only, so outlines can become crisper while it trains, and after. The loss is the
autoencoder's without the KL term.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training import autoencoder, latents, loop
from training.settings import DECODER


def train() -> None:
    """The stage `decoder`."""
    model = latents.frozen().to(memory_format=torch.channels_last)
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(True)

    def loss(number: int) -> Tensor:
        real = autoencoder.batch("decoder", number, DECODER.batch)
        with torch.no_grad():
            code = autoencoder.drawn(model.encode(real).latent_dist, number)
        return autoencoder.distance(model.decode(code).sample, real)

    loop.Trainer("decoder", model, DECODER, loss, lambda: autoencoder.show("decoder", model)).run()
