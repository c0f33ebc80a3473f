r"""A classifier's opinion: :math:`\log p(\text{target} \mid x)` under any image classifier of transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, choices, describe_error
from noiseward.rewards.preprocess import Preprocess
from noiseward.rewards.reward import Reward
from noiseward.rewards.weights import JSON, Repo, files, without_bars

__all__ = ["Classifier", "classifier", "classifier_repo", "repos"]


@final
class Classifier(Reward):
    """The log-probability of one class, below 0; the prompt does not matter.

    Arguments:
        model: a transformers model whose output has `logits`; it is put into evaluation mode and frozen.
        preprocess: what its pictures go through.
        target: a label of the model's, or its number.

    Raises:
        ArgumentError: there is no such class.
    """

    differentiable = True
    name = "classifier"

    def __init__(self, model: Any, preprocess: Preprocess, *, target: str | int) -> None:
        self.model, self.preprocess = model.eval().requires_grad_(False), preprocess
        labels = {int(index): str(label) for index, label in model.config.id2label.items()}
        by_label = {label.lower(): index for index, label in labels.items()}
        wanted = str(target).strip().lower()
        found = by_label.get(wanted, int(wanted) if wanted.isdecimal() and int(wanted) in labels else None)
        if found is None:
            holding = [label for label in by_label if wanted and wanted in label][:3] if len(labels) > 20 else []
            hint = (
                f"did you mean {' or '.join(map(repr, holding))}?" if holding else choices(wanted, by_label, limit=20)
            )
            raise ArgumentError(f"the classifier has no class '{target}' among its {len(labels)}; {hint}")
        self.target = found

    def __call__(self, sample: Tensor, prompt: Sequence[str] | None) -> Tensor:
        model = self.model.to(sample.device, torch.float32)
        logits = model(pixel_values=self.preprocess(sample.float())).logits
        return logits.log_softmax(1)[:, self.target].to(sample.dtype)


def classifier_repo(model: str) -> Repo:
    """What is needed of a classifier on the hub."""
    return Repo(model, ("config.json", "preprocessor_config.json", "model.safetensors"), JSON)


def repos(model: str = "", *, target: str = "") -> tuple[Repo, ...]:
    """What `classifier` takes from the hub."""
    return (classifier_repo(model),) if model and not os.path.isdir(os.path.expanduser(model)) else ()


def classifier(model: str = "", *, target: str = "") -> Classifier:
    """A class of an image classifier.

    Arguments:
        model: its hub id or folder.
        target: the class, by label or number.
    """
    if not model or not target:
        raise ArgumentError(
            "reward 'classifier' wants a model and a class, as in "
            "classifier:model=google/vit-base-patch16-224,target=goldfish"
        )
    own = Path(os.path.expanduser(model))
    folder = own if os.path.isdir(own) else files(
        classifier_repo(model), "", f"classifier:model={model}", argument="model"
    )  # fmt: skip
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        with without_bars():
            network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
            config = AutoImageProcessor.from_pretrained(folder, backend="pil").to_dict()
    except Exception as error:  # transformers and safetensors raise kinds of their own
        lfs.check(Path(folder))
        raise ModelError(f"{folder} cannot be loaded as an image classifier: {describe_error(error, 200)}") from None
    return Classifier(network, Preprocess.of(config), target=target)
