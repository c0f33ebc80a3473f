r"""MPS: human preference under a condition, scored by a CLIP whose image looks at the words of the prompt.

Four layers let the image's vectors attend to those words of the prompt that concern the condition, a list of what to
judge by, and to each other. With the vector :math:`v` of the image's class token after them, the prompt's own,
:math:`t`, and CLIP's scale s,

.. math:: r(x, c) = s \, \langle v / \|v\|, t / \|t\| \rangle.

A word concerns the condition if its largest product with a word of it exceeds a share of the largest such product in
the prompt. Its authors publish one condition, that of overall preference, and a checkpoint that is a pickled program,
which is not loaded; the weights are also on the hub as safetensors, converted by the project imscore.

References:
    Learning Multi-dimensional Human Preference for Text-to-Image Generation
    https://arxiv.org/abs/2405.14705
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward.errors import ArgumentError, ModelError
from noiseward.rewards.checkpoints import Source, count_layers, get_tensor, load_weights, read_checkpoint
from noiseward.rewards.hub import find_checkpoint, load_tokenizer
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from noiseward.rewards.repos import HPSV2_TOKENIZER as TOKENIZER
from noiseward.rewards.repos import MPS
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt, warn_if_cut
from noiseward.terminal import silence

__all__ = ["Mps", "mps"]

OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
HEADS = 16  # of CLIP, in both towers


class CrossAttention(nn.Module):
    """Attention of image vectors to words, with one key and value for all heads, and a gated layer next to it."""

    def __init__(self, width: int, heads: int, head: int, inner: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.to_q, self.to_kv = nn.Linear(width, heads * head, bias=False), nn.Linear(width, 2 * head, bias=False)
        self.to_out = nn.Linear(heads * head, width, bias=False)
        gated = nn.Linear(width, 2 * inner, bias=False), nn.Identity(), nn.Linear(inner, width, bias=False)
        self.ff = nn.Sequential(*gated)

    def forward(self, x: Tensor, words: Tensor, seen: Tensor) -> Tensor:
        y = self.norm(x)
        keys, values = (part[:, None] for part in self.to_kv(words).chunk(2, dim=2))
        queries = self.to_q(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen[:, None, None])
        return x + self.to_out(mixed.transpose(1, 2).flatten(2)) + self.ff[2](_gate(self.ff[0](y)))


class SelfAttention(nn.Module):
    """Attention of image vectors to each other, likewise, with rotated queries and keys."""

    def __init__(self, width: int, heads: int, head: int, inner: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.sizes = (heads * head, head, head, 2 * inner)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.attn_out = nn.Linear(heads * head, width, bias=False)
        self.ff_out = nn.Sequential(nn.Identity(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values, inner = self.fused_attn_ff_proj(self.norm(x)).split(self.sizes, dim=2)
        queries = _rotate(queries.unflatten(2, (self.heads, -1)).transpose(1, 2))
        mixed = F.scaled_dot_product_attention(queries, _rotate(keys[:, None]), values[:, None])
        return x + self.attn_out(mixed.transpose(1, 2).flatten(2)) + self.ff_out(_gate(inner))


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def _rotate(x: Tensor) -> Tensor:
    """Turn the halves of vectors `(..., T, D)` against each other, by an angle that grows with their place."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    one, other = x.split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


@final
class Mps(Reward):
    """The preference.

    Arguments:
        clip: a transformers `CLIPModel`.
        layers: pairs of `CrossAttention` and `SelfAttention`, in turn.
        tokenizer: CLIP's.
        preprocess: applied to images.
        condition: what to judge by.
        threshold: the share from which a word of the prompt concerns it.
    """

    differentiable = True
    name = "mps"

    def __init__(
        self, clip: Any, layers: nn.ModuleList, tokenizer: Any, preprocess: Preprocess, *, condition: str = OVERALL,
        threshold: float = 0.01,
    ) -> None:  # fmt: skip
        self.network = nn.ModuleDict({"clip": clip, "layers": layers}).eval().requires_grad_(False)
        self.tokenizer, self.preprocess, self.condition = tokenizer, preprocess, condition
        self.threshold, self._seen = threshold, set[str]()

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts = list(require_prompt(self.name, prompt))
        length = self.tokenizer.model_max_length
        warn_if_cut(self.name, self.tokenizer, list(dict.fromkeys(t for t in texts if t not in self._seen)), length)
        self._seen.update(texts)
        clip: Any = self.network.to(sample.device, torch.float32)["clip"]
        with torch.no_grad():
            words, text = self._read(texts, sample.device)
            condition, _ = self._read([self.condition], sample.device)
            nearness = (words @ condition[0].T).amax(2)
            seen = nearness / nearness.amax(1, keepdim=True) > self.threshold
        x = clip.vision_model(pixel_values=self.preprocess(sample.float())).last_hidden_state
        x = clip.visual_projection(x)
        for cross, own in self.network["layers"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = own(cross(x, words, seen))
        scores = (F.normalize(x[:, 0], dim=1) * F.normalize(text, dim=1)).sum(1)
        return (clip.logit_scale.exp() * scores).to(sample.dtype)

    def _read(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Vectors of all words, `(B, T, D)`, and of the end of each text."""
        clip: Any = self.network["clip"]
        ids = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(device)  # fmt: skip
        words = clip.text_projection(clip.text_model(input_ids=ids).last_hidden_state)
        return words, words[torch.arange(len(ids), device=device), ids.argmax(1)]


def mps(path: str = "", *, tokenizer: str = "", condition: str = "", threshold: float = 0.01) -> Mps:
    """MPS.

    Arguments:
        path: its safetensors file, or a folder with `model.safetensors`; default: the local cache.
        tokenizer: a folder with CLIP's tokenizer; default: that of the checkpoint if it is there, or the local cache.
        condition: what to judge by; default: overall preference, which the published weights know.
        threshold: the share from which a word of the prompt concerns it.
    """
    from transformers import CLIPTokenizer

    if not threshold < 1:
        raise ArgumentError(f"threshold must be < 1, got {threshold}")
    file = find_checkpoint(MPS, path, "mps")
    words = load_tokenizer(CLIPTokenizer, TOKENIZER, tokenizer, "mps", checkpoint=file if path else None)
    try:
        state = read_checkpoint(file)
    except ModelError as error:
        hint = "; MPS_overall_checkpoint.pth of its authors is a pickled program: take RE-N-Y/mpsv1 of the hub"
        raise ModelError(f"{error}{hint if 'more than tensors' in str(error) else ''}") from None
    clip, layers = convert_mps(state, file)
    side = clip.config.vision_config.image_size
    prepare = Preprocess(side, (side, side), CLIP_MEAN, CLIP_STD)
    return Mps(clip, layers, words, prepare, condition=condition or OVERALL, threshold=threshold)


def convert_mps(state: Mapping[str, Tensor], path: Path) -> tuple[Any, nn.ModuleList]:
    """Load a checkpoint into a CLIP and the layers after it.

    Raises:
        ModelError: the checkpoint is of another kind.
    """
    from transformers import CLIPConfig, CLIPModel

    root = next((key.partition("cross_model.")[0] for key in state if "cross_model." in key), "")
    model, cross = f"{root}model.", f"{root}cross_model.layers."

    def find(name: str) -> Tensor:
        return get_tensor(state, name, path)

    kernel, places = (find(f"{model}vision_model.embeddings.{n}_embedding.weight") for n in ("patch", "position"))
    table, order = (find(f"{model}text_model.embeddings.{n}_embedding.weight") for n in ("token", "position"))

    def describe(tower: str, width: int) -> dict[str, Any]:
        return {
            "hidden_size": width, "intermediate_size": len(find(f"{model}{tower}.encoder.layers.0.mlp.fc1.weight")),
            "num_hidden_layers": count_layers(state, f"{model}{tower}.encoder.layers."), "num_attention_heads": HEADS,
            "hidden_act": "gelu",
        }  # fmt: skip

    side = round((len(places) - 1) ** 0.5) * kernel.shape[-1]
    vision = {**describe("vision_model", len(kernel)), "image_size": side, "patch_size": kernel.shape[-1]}
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None}  # 2: the last token of a text ends it
    text = {**describe("text_model", table.shape[1]), "vocab_size": len(table), "max_position_embeddings": len(order)}
    width = len(find(f"{model}text_projection.weight"))
    key, query = (find(f"{cross}0.0.fn.{name}.weight") for name in ("to_kv", "to_q"))
    head, inner = len(key) // 2, find(f"{cross}0.0.fn.ff.2.weight").shape[1]
    sizes = (width, len(query) // max(1, head), head, inner)
    try:
        with silence("transformers"):
            clip = CLIPModel(CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=width))
        count = count_layers(state, cross)
        layers = nn.ModuleList(nn.ModuleList([CrossAttention(*sizes), SelfAttention(*sizes)]) for _ in range(count))
    except ValueError as error:  # a width that the heads do not divide
        raise ModelError(f"{path} does not fit: {str(error).splitlines()[0]}") from None
    own = {key: part for key, part in state.items() if key.startswith(model)}
    load_weights(clip, own, lambda name: Source(model + name), path, ignored=("*.position_ids",))

    def source_of(name: str) -> Source:
        layer, kind, rest = name.split(".", 2)
        return Source(f"{cross}{layer}.{kind}.fn.{rest}")

    rest = {key: part for key, part in state.items() if key not in own}
    load_weights(layers, rest, source_of, path, ignored=("*.rotary_emb.inv_freq",))
    return clip, layers
