r"""VQAScore by CLIP-FlanT5, the model that was trained for it.

The patches of the image, as a CLIP ViT-L/14 of 336 pixels sees them before its last layer, go through two linear layers
and stand between the words of a question. A T5 reads both and answers; the answer ends with a token of its own, and the
score is the geometric mean of the probabilities of the two,

.. math:: r(x, c) = \sqrt{p(\text{Yes} \mid x, c) \; p(\text{end} \mid \text{Yes}, x, c)}.

Images that are not square are padded with the mean color, and then resized.

References:
    Evaluating Text-to-Visual Generation with Image-to-Text Generation
    https://arxiv.org/abs/2404.01291
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward.errors import ModelError, describe_error
from noiseward.rewards.checkpoints import (
    Source,
    build_layers,
    count_layers,
    get_tensor,
    load_network,
    load_weights,
    read_shards,
)
from noiseward.rewards.hub import find_folder, load_tokenizer
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess, check_images
from noiseward.rewards.repos import QUESTION, T5_TOKENIZER, T5_VISION
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt
from noiseward.terminal import silence

__all__ = ["VqaT5", "load_t5", "pad_square"]

BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
)
AFTER = "\n{question} ASSISTANT: "
HEAD = 64  # width of a head of CLIP's vision models
TOWER, PROJECTOR = "vision_tower.", "mm_projector."


def pad_square(images: Tensor) -> Tensor:
    """Pad images to squares with the mean color.

    Example:
        >>> pad_square(torch.ones(1, 3, 2, 5)).shape
        torch.Size([1, 3, 5, 5])
    """
    height, width = images.shape[2:]
    side = max(height, width)
    color = torch.tensor([int(part * 255) / 255 for part in CLIP_MEAN]).to(images).view(1, 3, 1, 1)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(images - color, (left, side - width - left, top, side - height - top)) + color


@final
class VqaT5(Reward):
    """The probability of Yes and the end of the answer, from 0 to 1.

    Arguments:
        model: a `T5ForConditionalGeneration`; like the next two, it is put into evaluation mode and frozen.
        vision: a `CLIPVisionModel`.
        projector: from its vectors to those of words.
        tokenizer: T5's, which ends each text with a token.
        question: with {} for the prompt.

    Attributes:
        dtype: of its weights.
    """

    differentiable = True
    name = "vqa"

    def __init__(
        self, model: Any, vision: Any, projector: nn.Module, tokenizer: Any, *, question: str = QUESTION
    ) -> None:
        parts = {"model": model, "vision": vision, "projector": projector}
        self.network = nn.ModuleDict(parts).eval().requires_grad_(False)
        self.tokenizer, self.question, self.dtype = tokenizer, question, torch.bfloat16
        side = vision.config.image_size
        self.preprocess = Preprocess(None, (side, side), CLIP_MEAN, CLIP_STD)
        self._before, self._answer = self._read(BEFORE), self._read("Yes")

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts, parts = require_prompt(self.name, prompt), self.network.to(sample.device, self.dtype)
        images = self.preprocess(pad_square(check_images(sample.float())))
        vision = parts["vision"]
        seen = vision(pixel_values=images.to(self.dtype), output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = parts["projector"](seen)
        return torch.stack([self._ask(*each) for each in zip(patches, texts, strict=True)]).to(sample.dtype)

    def _ask(self, patches: Tensor, text: str) -> Tensor:
        model: Any = self.network["model"]
        device = patches.device
        after = self._read(AFTER.format(question=self.question.replace("{}", text)))
        words: Any = model.get_input_embeddings()
        given = torch.cat([words(self._before.to(device)), patches, words(after.to(device))])[None]
        answer = self._answer.to(device)
        start = torch.tensor([model.config.decoder_start_token_id], device=device)
        before = torch.cat([start, answer[:-1]])[None]
        logits = model(inputs_embeds=given, decoder_input_ids=before, use_cache=False).logits
        return (-F.cross_entropy(logits[0].float(), answer)).exp()

    def _read(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text).input_ids)


def load_t5(folder: Path, reward: str, *, question: str, tokenizer: str = "", vision: str = "") -> VqaT5:
    """Load a CLIP-FlanT5 from a folder, as it is published.

    Arguments:
        folder: with its configuration and weights.
        reward: the reward on the command line, for messages.
        question: see `VqaT5`.
        tokenizer: a folder with T5's tokenizer; default: that of the model if it is there, or the local cache.
        vision: a folder with the CLIP, where the model's weights do not hold its own; default: the local cache.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    state, path = read_shards(folder)
    try:
        with silence("transformers"):
            plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            own = {key: value for key, value in plain.items() if key not in ("model_type", "architectures")}
            config = T5Config(**own)
        layer, feature = plain.get("mm_vision_select_layer", -2), plain.get("mm_vision_select_feature", "patch")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} cannot be loaded as a CLIP-FlanT5: {describe_error(error, 200)}") from None
    if (layer, feature) != (-2, "patch"):
        raise ModelError(f"{folder} takes '{feature}' of layer {layer} of its CLIP; expected 'patch' of layer -2")
    config.vocab_size = len(get_tensor(state, "shared.weight", path))
    text = {key: part for key, part in state.items() if not key.startswith((TOWER, PROJECTOR, "embed_tokens."))}
    model = load_network(T5ForConditionalGeneration, config, text, path)
    projector = build_layers(
        {key: part for key, part in state.items() if key.startswith(PROJECTOR)}, path, PROJECTOR, (0, 2), nn.GELU
    )
    words = load_tokenizer(AutoTokenizer, T5_TOKENIZER, tokenizer, reward, checkpoint=path)
    tower = {key: part for key, part in state.items() if key.startswith(TOWER)}
    if not tower:
        tower, path = read_shards(find_folder(T5_VISION, vision, reward, argument="vision"))
    return VqaT5(model, load_vision(tower, path), projector, words, question=question)


def load_vision(state: Mapping[str, Tensor], path: Path) -> Any:
    """The vision model of an OpenAI CLIP, from any checkpoint that holds its weights under `vision_model.`."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    own = {key.partition("vision_model.")[2]: part for key, part in state.items() if "vision_model." in key}
    kernel, places = (get_tensor(own, f"embeddings.{name}_embedding.weight", path) for name in ("patch", "position"))
    side = round((len(places) - 1) ** 0.5) * kernel.shape[-1]
    with silence("transformers"):
        vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=len(kernel), patch_size=kernel.shape[-1], image_size=side,
                intermediate_size=len(get_tensor(own, "encoder.layers.0.mlp.fc1.weight", path)),
                num_hidden_layers=count_layers(own, "encoder.layers."), num_attention_heads=max(1, len(kernel) // HEAD),
                hidden_act="quick_gelu",
            )
        )  # fmt: skip
    ignored = ("embeddings.position_ids",)
    load_weights(vision, own, lambda name: Source(name.removeprefix("vision_model.")), path, ignored=ignored)
    return vision
