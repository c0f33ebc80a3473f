"""Folders of tiny models for tasks: Stable Diffusion, SDXL, a ControlNet and an IP-Adapter of each, and photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.catalog.stable import controlnet, vision
from tests.families import unets

__all__ = ["write_models"]


def write_models(root: Path) -> Path:
    """Write `sd`, `xl`, `canny`, `canny-xl`, `ip-adapter/models`, `photo.png`, `mask.png` and `edges.png`."""
    sd, xl = unets.sd1(), unets.sdxl()
    sd.save_pretrained(root / "sd")
    xl.save_pretrained(root / "xl")
    controlnet(sd.unet).save_pretrained(root / "canny")
    controlnet(xl.unet).save_pretrained(root / "canny-xl")
    write_ip_adapter(sd.unet, root / "ip-adapter" / "models")
    write_photos(root)
    return root


def write_photos(root: Path) -> None:
    """A photo of 24 x 20, a mask for its middle, and edges."""
    levels = numpy.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=numpy.uint8)
    Image.fromarray(levels).save(root / "photo.png")
    mask = numpy.zeros((20, 24), dtype=numpy.uint8)
    mask[4:14, 6:18] = 255
    Image.fromarray(mask).save(root / "mask.png")
    Image.fromarray(numpy.where(levels > 128, 255, 0).astype(numpy.uint8)).save(root / "edges.png")


def write_ip_adapter(unet: Any, folder: Path) -> None:
    """An IP-Adapter of random weights, laid out as its authors publish it: a file next to its image encoder."""
    torch.manual_seed(0)
    encoder = vision()
    encoder.save_pretrained(folder / "image_encoder")
    seen, width = encoder.config.projection_dim, unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(4 * width, seen) / seen**0.5,
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    places = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, place in enumerate(places):
        inner = unet.get_submodule(place.removesuffix(".processor")).to_k.out_features
        for kind in ("k", "v"):
            key = f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"
            weights[key] = torch.randn(inner, width) / width**0.5
    save_file(weights, folder / "ip-adapter.safetensors")
