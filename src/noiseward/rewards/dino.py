r"""DINOv2 as an encoder of images: what an image shows and how it is composed, without any text.

The vector of an image is that of its class token after the last layer norm, :math:`f(x) / \|f(x)\|`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from noiseward import lfs
from noiseward.errors import ModelError, describe_error
from noiseward.rewards.preprocess import Preprocess, widen
from noiseward.terminal import silence

__all__ = ["DinoEncoder", "read_kind"]


@final
class DinoEncoder:
    """Unit vectors of images under a `Dinov2Model`.

    Arguments:
        model: it is put into evaluation mode and frozen.
        preprocess: applied to images.

    References:
        DINOv2: Learning Robust Visual Features without Supervision
        https://arxiv.org/abs/2304.07193
    """

    def __init__(self, model: Any, preprocess: Preprocess) -> None:
        self.model, self.preprocess = model.eval().requires_grad_(False), preprocess

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of images `(B, 3, H, W)` in [0, 1]."""
        wide = widen(images)
        found = self.model.to(wide)(pixel_values=self.preprocess(wide))
        return F.normalize(found.last_hidden_state[:, 0], dim=1).to(images.dtype)

    @classmethod
    def load(cls, folder: Path) -> DinoEncoder:
        """Load a model from a folder, with its image processor.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import AutoModel

        try:
            with silence("transformers"):
                model = AutoModel.from_pretrained(folder, dtype=torch.float32)
            config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # transformers and safetensors raise kinds of their own
            lfs.check_pointers(folder)
            raise ModelError(f"{folder} cannot be loaded as a DINOv2: {describe_error(error, 200)}") from None
        return cls(model, Preprocess.of(config))


def read_kind(folder: Path) -> str:
    """The `model_type` that a folder's configuration names; empty where there is none."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""
