"""Rewards as people write them in Python, and one line for what is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import noiseward
from noiseward.errors import ArgumentError
from noiseward.rewards.convert import convert_reward
from noiseward.rewards.pixels import brightness, contrast

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HOW = {"steps": 1, "num_inference_steps": 2, "progress": False}


def redness(images):
    return images[:, 0].mean((1, 2))


class Head(nn.Module):
    """A module with weights, dropout, and a column of results."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.linear(self.dropout(images.mean((2, 3))))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A small image classifier of transformers, saved with its preprocessing."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    labels = {0: "cat", 1: "gold fish"}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = ViTConfig(image_size=8, patch_size=4, id2label=labels, label2id={v: k for k, v in labels.items()}, **sizes)
    folder = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def score(value) -> torch.Tensor:
    return convert_reward(value)(IMAGES, None)


def test_a_wrong_label_is_named_before_what_a_right_one_would_lack(vit):
    from transformers import ViTConfig, ViTForImageClassification

    bare = ViTForImageClassification(ViTConfig.from_pretrained(vit))  # it does not know its preprocessing
    with pytest.raises(ArgumentError, match="no class 'fish' among its 2; .*'gold fish'"):
        convert_reward((bare, "fish"))
    with pytest.raises(ArgumentError, match="wants images is not known"):
        convert_reward((bare, "cat"))


def test_lists_and_mappings_may_mix_names_functions_and_rewards():
    red, bright = redness(IMAGES), brightness()(IMAGES, None)
    torch.testing.assert_close(score([redness, "brightness"]), red + bright)
    contrasts = contrast()(IMAGES, None)
    torch.testing.assert_close(score((redness, "brightness:0.5", contrast())), red + bright / 2 + contrasts)
    torch.testing.assert_close(score({"brightness": 1.0, redness: 0.5}), bright + red / 2)
    torch.testing.assert_close(score({contrast(): 2}), 2 * contrasts)
    assert convert_reward([redness]).name == "redness"


def test_a_reward_that_is_given_twice_counts_twice():
    bright = brightness()
    total = convert_reward([bright, "contrast", bright])
    assert total.name == "2 brightness + 1 contrast"
    torch.testing.assert_close(score([bright, bright]), 2 * bright(IMAGES, None))
    with pytest.raises(ArgumentError, match="rewards need different names, got redness, redness"):
        convert_reward([redness, redness])


def test_a_module_is_frozen_and_has_a_gradient():
    head = Head()
    reward = convert_reward(head)
    assert reward.name == "Head" and not head.training and not any(one.requires_grad for one in head.parameters())
    images = IMAGES.clone().requires_grad_()
    scores = reward(images, None)
    assert scores.shape == (2,)
    scores.sum().backward()
    assert bool((images.grad != 0).any())


def test_a_classifier_with_a_label_is_the_probability_of_its_class(vit):
    from transformers import AutoModelForImageClassification, pipeline

    from noiseward.rewards.classifier import classifier

    expected = classifier(str(vit), target="gold fish")(IMAGES, None)
    model = AutoModelForImageClassification.from_pretrained(vit)
    pipe = pipeline("image-classification", model=str(vit), image_processor=str(vit))
    for one in (model, pipe):
        torch.testing.assert_close(score((one, "gold fish")), expected)
        with pytest.raises(ArgumentError, match="scores several classes; give the pair"):
            convert_reward(one)
    with pytest.raises(ArgumentError, match="no class 'dog' among its 2"):
        convert_reward((model, "dog"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "reward must be a name, a function of images, .*, got 3"),
        (None, "reward must be a name, .*, got None"),
        ([redness, 3], "reward must be a name, .*, got 3"),
        ({redness: "much"}, "the weight of reward <function redness .*> must be a number, got 'much'"),
        ({redness: True}, "must be a number, got True"),
        (Head, "reward must be an object, got the class Head; make one: Head()"),
        ([], "expected a reward, got none"),
    ],
)
def test_what_is_no_reward_is_one_line(value, says):
    with pytest.raises(ArgumentError, match=says.replace("()", r"\(\)")) as error:
        convert_reward(value)
    assert "\n" not in str(error.value)


def test_align_takes_them_and_watches_functions(model, tmp_path):
    def blueness(images):
        return images[:, 2].mean((1, 2))

    solution = noiseward.align(
        model, "a", [redness, "contrast"], watch=[blueness, "jpeg", Head()], height=16, width=16, **HOW
    )
    assert set(solution.history[0]["terms"]) == {"redness", "contrast"}
    assert set(solution.history[0]["watched"]) == {"blueness", "jpeg", "Head"}
    one = noiseward.align(model, "a", {"brightness": 1.0, redness: 0.5}, watch=blueness, height=16, width=16, **HOW)
    assert list(one.history[0]["watched"]) == ["blueness"]
    with pytest.raises(ArgumentError, match="expected a held-out reward to watch, got 'redness', which is optimized"):
        noiseward.align(model, "a", redness, watch=[redness], height=16, width=16, **HOW)
