r"""HPSv3: human preference, read by a Qwen2-VL from an image and its prompt.

The model is asked to rate the image, and the question ends with a token of its own. Three linear layers turn the vector
at that token into the mean and the spread of a normal distribution of ratings; the reward is the mean,

.. math:: r(x, c) = \mu(h_{\text{Reward}}(x, c)).

Its authors' code gives all tokens, those of the image too, positions from 0 on in one row, rather than Qwen2-VL's
positions in three; so does this. Images are resized to about 200,000 pixels, with the graph kept, as `vqa` does.

The question belongs to the model. It is read from its authors' package `hpsv3`, whose code is not run, or from a file.

References:
    HPSv3: Towards Wide-Spectrum Human Preference Score
    https://arxiv.org/abs/2508.03789
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, describe_error
from noiseward.rewards.checkpoints import build_layers, get_tensor, load_network, read_checkpoint
from noiseward.rewards.hub import find_checkpoint, find_folder
from noiseward.rewards.preprocess import check_images
from noiseward.rewards.repos import HPSV3, HPSV3_BACKBONE
from noiseward.rewards.reward import Reward
from noiseward.rewards.texts import require_prompt
from noiseward.rewards.vqa import ASKED, IMAGE, Patches
from noiseward.terminal import silence

__all__ = ["Hpsv3", "hpsv3", "read_question"]

TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28
LAYERS = (0, 3, 5)  # of the head
PLACE = "{text_prompt}"


@final
class Hpsv3(Reward):
    """The mean rating.

    Arguments:
        model: a transformers `Qwen2VLModel`; it is put into evaluation mode and frozen.
        head: from its vectors `(B, D)` to `(B, 2)`, in float32.
        tokenizer: its tokenizer, which knows the token of the head.
        patches: its image processor.
        question: with {text_prompt} for the prompt, and the token.

    Attributes:
        dtype: of the model's weights.
    """

    differentiable = True
    name = "hpsv3"

    def __init__(self, model: Any, head: nn.Module, tokenizer: Any, patches: Patches, *, question: str) -> None:
        self.model, self.head = model.eval().requires_grad_(False), head.eval().requires_grad_(False)
        self.tokenizer, self.patches, self.question, self.dtype = tokenizer, patches, question, torch.bfloat16
        self._token, self._image = (tokenizer.convert_tokens_to_ids(text) for text in (TOKEN, IMAGE))

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        texts, images = require_prompt(self.name, prompt), check_images(sample.float())
        rows = zip(images, texts, strict=True)
        return torch.cat([self._rate(image[None], text) for image, text in rows]).to(sample.dtype)

    def _rate(self, image: Tensor, text: str) -> Tensor:
        model, head = self.model.to(image.device, self.dtype), self.head.to(image.device, torch.float32)
        patches, grid = self.patches(image)
        places = IMAGE * (len(patches) // self.patches.merge**2)
        asked = ASKED.format(image=places, question=self.question.replace(PLACE, text.replace(TOKEN, "")))
        ids = self.tokenizer(asked, return_tensors="pt", add_special_tokens=False).input_ids.to(image.device)
        found = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=patches.to(self.dtype),
            image_grid_thw=grid, mm_token_type_ids=(ids == self._image).int(), use_cache=False,
            position_ids=torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1),
        ).last_hidden_state  # fmt: skip
        return head(found[ids == self._token].float())[:, 0]


def hpsv3(path: str = "", *, backbone: str = "", question: str = "") -> Hpsv3:
    """HPSv3.

    Arguments:
        path: `HPSv3.safetensors`, or a folder with it; default: the local cache.
        backbone: a folder with configuration and tokenizer of Qwen2-VL-7B-Instruct; default: the local cache.
        question: a text file with what the model is asked; default: that of the installed package hpsv3.
    """
    asked = read_question(question)
    file = find_checkpoint(HPSV3, path, "hpsv3")
    folder = find_folder(HPSV3_BACKBONE, backbone, "hpsv3", argument="backbone")
    from transformers import AutoTokenizer

    try:
        with silence("transformers"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        patches = Patches({**processor, "min_pixels": PIXELS, "max_pixels": PIXELS})
    except Exception as error:  # transformers raises kinds of its own
        lfs.check_pointers(folder)
        raise ModelError(f"{folder} cannot be loaded as a Qwen-VL: {describe_error(error, 200)}") from None
    tokenizer.add_tokens([TOKEN], special_tokens=True)
    state = read_checkpoint(file)
    head = build_layers({key: one for key, one in state.items() if key.startswith("rm_head.")}, file, "rm_head.",
                        LAYERS, nn.ReLU)  # fmt: skip
    return Hpsv3(_load_backbone(state, file, folder), head, tokenizer, patches, question=asked)


def read_question(path: str = "") -> str:
    """What the model is asked: the text of a file, or of the package `hpsv3`, which is read and not run.

    Raises:
        ArgumentError: there is none, or it has no place for the prompt or the token.
    """
    spec = None if path else find_spec("hpsv3")
    if not path and (spec is None or spec.origin is None):
        raise ArgumentError(
            "reward 'hpsv3' needs the question of its authors: pip install --no-deps hpsv3, or give a text file, "
            "hpsv3:question=FILE"
        )
    file = Path(path).expanduser() if path else Path(str(spec and spec.origin)).parent / "dataset/data_collator_qwen.py"
    try:
        text = file.read_text(encoding="utf-8")
        text = text if path else "".join(_read_constants(text, "INSTRUCTION", "prompt_with_special_token"))
    except (OSError, ValueError, SyntaxError, KeyError) as error:
        raise ArgumentError(f"question must be a text file, got '{file}' ({describe_error(error, 100)})") from None
    if text.count(PLACE) != 1 or text.count(TOKEN) != 1:
        raise ArgumentError(f"question must have {PLACE} and {TOKEN} once each, got '{file}' without")
    return text


def _read_constants(source: str, *names: str) -> list[str]:
    """Texts that Python source assigns to names."""
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
    }
    return [found[name] for name in names]


def _load_backbone(state: Mapping[str, Tensor], path: Path, folder: Path) -> Any:
    """A `Qwen2VLModel` with a checkpoint's weights, whose names may be of transformers before or after 4.52."""
    from transformers import Qwen2VLConfig, Qwen2VLModel

    own = {_rename(key): part for key, part in state.items() if not key.startswith(("rm_head.", "lm_head."))}
    words = get_tensor(own, "language_model.embed_tokens.weight", path)
    try:
        with silence("transformers"):
            config = Qwen2VLConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises kinds of its own
        raise ModelError(f"{folder} is no configuration of a Qwen2-VL: {describe_error(error, 200)}") from None
    config.get_text_config().vocab_size = len(words)
    return load_network(Qwen2VLModel, config, own, path)


def _rename(name: str) -> str:
    """A parameter's name in a `Qwen2VLModel`."""
    if name.startswith("visual."):
        return name
    inner = name.removeprefix("model.")
    return inner if inner.startswith(("visual.", "language_model.")) else f"language_model.{inner}"
