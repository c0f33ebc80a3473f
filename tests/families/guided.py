"""Stable Diffusion that is shown an image: ControlNet, img2img, inpainting."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)

from tests.families.flows import sd3
from tests.families.unets import parts


def make_image() -> Any:
    """An image in [0, 1], `(1, 3, 16, 16)`."""
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def mask() -> Any:
    """What to repaint: the left half."""
    given = torch.zeros(1, 1, 16, 16)
    given[..., :8] = 1
    return given


def controlnet() -> Any:
    """With a ControlNet whose outputs, zero when it is made, are not."""
    made = parts()
    net = ControlNetModel.from_unet(made["unet"], conditioning_channels=3, conditioning_embedding_out_channels=(8, 8))
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(weight, std=0.2)
    return StableDiffusionControlNetPipeline(**made, controlnet=net)


def img2img() -> Any:
    """Starts from an encoded image, with noise on top."""
    return StableDiffusionImg2ImgPipeline(**parts())


def inpaint() -> Any:
    """The UNet of 9 channels that inpainting checkpoints have."""
    return StableDiffusionInpaintPipeline(**parts(in_channels=9))


def sd3_controlnet() -> Any:
    """Stable Diffusion 3 with a ControlNet, whose control image the pipeline encodes without its generator."""
    made = sd3().components
    net = SD3ControlNetModel.from_transformer(
        made["transformer"], num_layers=1, num_extra_conditioning_channels=0, load_weights_from_transformer=False
    )
    for name, weight in net.named_parameters():
        if name.startswith(("controlnet_blocks", "pos_embed_input")):
            torch.nn.init.normal_(weight, std=0.2)
    return StableDiffusion3ControlNetPipeline(
        **{name: part for name, part in made.items() if part is not None}, controlnet=net
    )
