"""The published architectures, written out on the checkpoints' own names: what to compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def head(state: dict[str, Tensor], x: Tensor, prefix: str = "") -> Tensor:
    """The five linear layers, one after the other."""
    for number in (0, 2, 4, 6, 7):
        x = x @ state[f"{prefix}layers.{number}.weight"].T + state[f"{prefix}layers.{number}.bias"]
    return x[:, 0]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention written out, `(B, T, D)` in and out."""
    split = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
    logits = split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5
    weights = (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(3)
    return (weights @ split[2]).transpose(1, 2).flatten(2)


def open_clip_forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor) -> Tensor:
    """open_clip's own forward pass on its own names: the cosine of images and texts."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def tower(name, x, layers, mask=None):
        for block in (f"{name}.resblocks.{number}" for number in range(layers)):
            together = F.linear(
                norm(f"{block}.ln_1", x), state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]
            )
            x = x + linear(f"{block}.attn.out_proj", attend(*together.chunk(3, dim=2), 16, mask))
            x = x + linear(f"{block}.mlp.c_proj", F.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
        return x

    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = tower("visual.transformer", norm("visual.ln_pre", x), 3)
    image = norm("visual.ln_post", x)[:, 0] @ state["visual.proj"]
    y = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    y = tower("transformer", y, 2, torch.ones(ids.shape[1], ids.shape[1]).tril().bool())
    text = norm("ln_final", y)[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return (F.normalize(image, dim=1) * F.normalize(text, dim=1)).sum(1)


def blip_forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """ImageReward's forward pass on its own names."""
    return (head(state, blip_vectors(state, pixels, ids, mask), "mlp.") - 0.16717362830052426) / 1.0333394966054072


def cycle_forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """CycleReward's forward pass on its own names."""
    x = blip_vectors(state, pixels, ids, mask)
    for number in (0, 2, 4, 6, 8):
        x = F.gelu(x) if number else x
        x = x @ state[f"mlp.layers.{number}.weight"].T + state[f"mlp.layers.{number}.bias"]
    return x[:, 0]


def blip_vectors(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """BLIP's vectors of an image and a text, on its own names."""

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    eye, mind = "blip.visual_encoder", "blip.text_encoder"
    x = F.conv2d(
        pixels, state[f"{eye}.patch_embed.proj.weight"], state[f"{eye}.patch_embed.proj.bias"], stride=16
    ).flatten(2)
    x = torch.cat([state[f"{eye}.cls_token"].expand(len(x), 1, -1), x.transpose(1, 2)], 1) + state[f"{eye}.pos_embed"]
    for block in (f"{eye}.blocks.{number}" for number in range(2)):
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=2)
        x = x + linear(f"{block}.attn.proj", attend(q, k, v, 16))
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    x = norm(f"{eye}.norm", x, 1e-6)
    places = state[f"{mind}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = norm(f"{mind}.embeddings.LayerNorm", state[f"{mind}.embeddings.word_embeddings.weight"][ids] + places, 1e-12)
    for layer in (f"{mind}.encoder.layer.{number}" for number in range(2)):
        for kind, source, seen in (("attention", None, mask[:, None, None].bool()), ("crossattention", x, None)):
            parts = [linear(f"{layer}.{kind}.self.query", y)]
            parts += [
                linear(f"{layer}.{kind}.self.{part}", y if source is None else source) for part in ("key", "value")
            ]
            new = linear(f"{layer}.{kind}.output.dense", attend(*parts, 12, seen))
            y = norm(f"{layer}.{kind}.output.LayerNorm", new + y, 1e-12)
        new = linear(f"{layer}.output.dense", F.gelu(linear(f"{layer}.intermediate.dense", y)))
        y = norm(f"{layer}.output.LayerNorm", new + y, 1e-12)
    return y[:, 0]
