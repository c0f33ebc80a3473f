"""Rewards as people write them in Python: names, functions, modules, classifiers, and lists and mappings of these."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from noiseward.errors import ArgumentError, shorten
from noiseward.rewards.parse import parse_rewards, parse_weighted
from noiseward.rewards.reward import FunctionReward, Reward, WeightedSum

__all__ = ["convert_reward", "convert_watched", "is_labeled"]

_KINDS = (
    "a name, a function of images, a Reward, a torch.nn.Module, (CLASSIFIER, LABEL) for a transformers pipeline or "
    "model, or a list or a mapping to weights of these"
)


def convert_reward(value: Any) -> Reward:
    """The reward that a value stands for.

    Arguments:
        value: a name with its arguments, as on the command line; a function of images, or of images and prompts; a
            `Reward`; a module from images to one number per row; a pair of an image classifier and a label; or a list
            of these, which are added up, or a mapping from these to weights.

    Raises:
        ArgumentError: it is something else.

    Example:
        >>> def redness(images):
        ...     return images[:, 0].mean((1, 2))
        >>> convert_reward([redness, "contrast:0.5"]).name, convert_reward({"brightness": 1.0, redness: 0.5}).name
        ('1 redness + 0.5 contrast', '1 brightness + 0.5 redness')
    """
    if isinstance(value, Mapping):
        for one, weight in value.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ArgumentError(f"the weight of reward {_show(one)} must be a number, got {_show(weight)}")
        return WeightedSum({_convert_one(one): float(weight) for one, weight in value.items()})
    if isinstance(value, Collection) and not isinstance(value, str | nn.Module) and not is_labeled(value):
        if all(isinstance(one, str) for one in value):
            return parse_rewards(list(value))
        parts = [parse_weighted(one) if isinstance(one, str) else (_convert_one(one), 1.0) for one in value]
        weights: dict[Reward, float] = {}
        for one, weight in parts:
            weights[one] = weights.get(one, 0.0) + weight
        return parts[0][0] if len(parts) == 1 and parts[0][1] == 1 else WeightedSum(weights)
    return _convert_one(value)


def convert_watched(value: Any) -> tuple[Reward, float]:
    """A watched reward and the weight it is given with, which it must not have."""
    return parse_weighted(value) if isinstance(value, str) else (_convert_one(value), 1.0)


def _convert_one(value: Any) -> Reward:
    if isinstance(value, Reward):
        return value
    if isinstance(value, str):
        return parse_rewards([value])
    if isinstance(value, type):
        raise ArgumentError(f"reward must be an object, got the class {value.__name__}; make one: {value.__name__}()")
    if is_labeled(value):
        return _make_classifier(*value)
    if _has_labels(value):
        raise ArgumentError(
            f"a {type(value).__name__} scores several classes; give the pair (classifier, label), as in "
            "(classifier, 'goldfish')"
        )
    if isinstance(value, nn.Module):
        return _make_module_reward(value)
    if callable(value):
        return FunctionReward(value)
    raise ArgumentError(f"reward must be {_KINDS}, got {_show(value)}")


def _show(value: Any) -> str:
    return shorten(repr(value), 60)


def _has_labels(value: Any) -> bool:
    """Whether something is an image classifier of transformers: a model, or a pipeline around one."""
    model = getattr(value, "model", value)
    return hasattr(getattr(model, "config", None), "id2label") and isinstance(model, nn.Module)


def is_labeled(value: Any) -> bool:
    """Whether a value is a pair of an image classifier and a label."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str | int) and _has_labels(value[0])


def _make_classifier(classifier: Any, label: str | int) -> Reward:
    """The log-probability of a class of a transformers pipeline, or of a model whose preprocessing can be found."""
    from noiseward.rewards.classifier import Classifier, find_class
    from noiseward.rewards.preprocess import Preprocess

    model = getattr(classifier, "model", classifier)
    find_class(model, label)  # a wrong label is named before what is missing for a right one
    processor = getattr(classifier, "image_processor", None)
    if processor is None:
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(model.name_or_path, backend="pil", local_files_only=True)
        except (OSError, ValueError):
            raise ArgumentError(
                f"how a {type(model).__name__} wants images is not known; give (pipeline, label), with a transformers "
                "image-classification pipeline"
            ) from None
    return Classifier(model, Preprocess.of(processor.to_dict()), target=label)


def _make_module_reward(module: nn.Module) -> Reward:
    """A module from images to `(B,)` or `(B, 1)`, frozen, on the images' device."""
    module.eval().requires_grad_(False)

    def score(images: Tensor) -> Tensor:
        scores = module.to(images.device)(images)
        return scores.squeeze(1) if isinstance(scores, Tensor) and scores.shape[1:] == (1,) else scores

    return FunctionReward(score, name=type(module).__name__)
