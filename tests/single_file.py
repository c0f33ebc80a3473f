"""A Stable Diffusion pipeline as one file, under the names its makers publish weights with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, layers: int, attended: set[int]) -> str:
    """The published name of a parameter of the U-Net, whose blocks have so many layers; `attended` up blocks attend."""
    module, leaf = name.rsplit(".", 1)
    if module in OUTER:
        return f"{OUTER[module]}.{leaf}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{RESNET.get(found[3], found[3])}.{leaf}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", module)
    assert found, name
    block, kind, layer, rest = int(found[2]), found[3], int(found[4]), found[5]
    first = block * (layers + 1) + (1 if found[1] == "down" else 0)
    side = "input_blocks" if found[1] == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{side}.{first + layers}.0.op.{leaf}"
    if kind == "upsamplers":
        return f"{side}.{first + layers}.{2 if block in attended else 1}.conv.{leaf}"
    return f"{side}.{first + layer}.{0 if kind == 'resnets' else 1}.{RESNET.get(rest, rest)}.{leaf}"


def vae_name(name: str, blocks: int) -> str:
    """The published name of a parameter of the autoencoder."""
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"\.resnets\.", ".block.", name)
    name = re.sub(r"\.(down|up)samplers\.0", r".\1sample", name)
    if "mid_block.attentions.0" in name:
        prefix, rest = name.split("mid_block.attentions.0.")
        module, leaf = rest.rsplit(".", 1)
        return f"{prefix}mid.attn_1.{ATTENTION[module]}.{leaf}"
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """The published shape: its attention is made of 1 x 1 convolutions."""
    return tensor[:, :, None, None] if "attn_1" in name and tensor.ndim == 2 else tensor


def write(pipe: Any, file: Path) -> None:
    """Write a pipeline's weights into one file."""
    unet, vae = pipe.unet.config, pipe.vae.config
    attended = {n for n, block in enumerate(unet.up_block_types) if "CrossAttn" in block}
    state = {}
    for name, tensor in pipe.unet.state_dict().items():
        state[f"model.diffusion_model.{unet_name(name, unet.layers_per_block, attended)}"] = tensor
    for name, tensor in pipe.vae.state_dict().items():
        published = vae_name(name, len(vae.block_out_channels))
        state[f"first_stage_model.{published}"] = vae_tensor(published, tensor)
    for name, tensor in pipe.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def cache(pipe: Any, hub: Path, model: str) -> None:
    """Put a pipeline's configuration, without its weights, where the hub's client keeps what it fetched."""
    folder = hub / f"models--{model.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    pipe.save_pretrained(snapshot)
    for weights in snapshot.rglob("*.safetensors"):
        weights.unlink()
