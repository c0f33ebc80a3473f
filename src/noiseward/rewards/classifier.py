r"""The log-probability of a class, :math:`\log p(\text{target} \mid x)`, under any image classifier of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, choices, describe_error
from noiseward.rewards.hub import find_model
from noiseward.rewards.preprocess import Preprocess, widen
from noiseward.rewards.repos import classifier_repo
from noiseward.rewards.reward import Reward
from noiseward.terminal import silence

__all__ = ["Classifier", "classifier", "find_class"]


@final
class Classifier(Reward):
    """The log-probability of one class, below 0; the prompt does not matter.

    Arguments:
        model: a transformers model whose output has `logits`; it is put into evaluation mode and frozen.
        preprocess: applied to images.
        target: a label of the model's, or its number.

    Raises:
        ArgumentError: there is no such class.
    """

    differentiable = True
    name = "classifier"

    def __init__(self, model: Any, preprocess: Preprocess, *, target: str | int) -> None:
        self.model, self.preprocess = model.eval().requires_grad_(False), preprocess
        self.target = find_class(model, target)

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        images = widen(sample)
        logits = self.model.to(images)(pixel_values=self.preprocess(images)).logits
        return logits.log_softmax(1)[:, self.target].to(sample.dtype)


def find_class(model: Any, target: str | int) -> int:
    """The number of a class of a classifier, by label or number.

    Raises:
        ArgumentError: there is no such class.
    """
    labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    by_label = {label.lower(): index for index, label in labels.items()}
    name = str(target).strip().lower()
    index = by_label.get(name, int(name) if name.isdecimal() and int(name) in labels else None)
    if index is None:
        holding = [label for label in by_label if name and name in label][:3] if len(labels) > 20 else []
        near = f"did you mean {' or '.join(map(repr, holding))}?"
        hint = near if holding else choices(name, by_label, limit=20)
        raise ArgumentError(f"the classifier has no class '{target}' among its {len(labels)}; {hint}")
    return index


def classifier(model: str = "", *, target: str = "") -> Classifier:
    """A class of an image classifier.

    Arguments:
        model: its hub id or folder.
        target: the class, by label or number.
    """
    if not model or not target:
        raise ArgumentError(
            "reward 'classifier' needs a model and a class, as in "
            "classifier:model=google/vit-base-patch16-224,target=goldfish"
        )
    folder = find_model(model, classifier_repo(model), "classifier")
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        with silence("transformers"):
            network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
            config = AutoImageProcessor.from_pretrained(folder, backend="pil").to_dict()
    except Exception as error:  # transformers and safetensors raise kinds of their own
        lfs.check_pointers(folder)
        raise ModelError(f"{folder} cannot be loaded as an image classifier: {describe_error(error, 200)}") from None
    return Classifier(network, Preprocess.of(config), target=target)
