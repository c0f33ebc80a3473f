"""Begin from what is shipped: the weights of the package as checkpoints, where the checkpoints are gone.

The encoder and decoder become `frozen`. The U-Net and the text encoder become step 0 of `denoiser`, with
fresh optimizers: a later version then learns its new nouns from where the last one ended. The tokens of new words
come last, so their embeddings are rows that the shipped text encoder does not have; those begin untrained, and
captions of old words mean what they meant.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from training import denoiser, loop
from training.settings import DENOISER, PACKAGE


def _never(_: int) -> Tensor:
    raise RuntimeError("warm only writes a checkpoint")


def grow(encoder: CLIPTextModel, shipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """The shipped weights of a text encoder, with the rows of new tokens added as they are in `encoder`."""
    rows = {name: fresh for name, fresh in encoder.state_dict().items() if name.endswith("token_embedding.weight")}
    return shipped | {name: torch.cat([shipped[name], fresh[len(shipped[name]) :]]) for name, fresh in rows.items()}


def begin() -> None:
    """The stage `warm`. A checkpoint that exists stays as it is."""
    shipped = StableDiffusionPipeline.from_pretrained(
        PACKAGE / "model", local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
    )
    if not loop.checkpoint("frozen").exists():
        loop.save(loop.checkpoint("frozen"), {"average": shipped.vae.state_dict()})
    if not loop.checkpoint("denoiser").exists():
        parts = denoiser.networks()
        parts["unet"].load_state_dict(shipped.unet.state_dict())
        parts["text"].load_state_dict(grow(parts["text"], shipped.text_encoder.state_dict()))
        loop.Trainer("denoiser", parts, DENOISER, loss=_never, sample=str).save()
    print("warm: frozen and denoiser are what is shipped", flush=True)
