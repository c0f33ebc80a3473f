"""Counting by a detector: which boxes remain, what they add up to, and the detector next to its official processor."""

from __future__ import annotations

import json
import types

import pytest
import torch
from transformers import (
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    Owlv2Config,
    Owlv2ForObjectDetection,
    SwinConfig,
)

from noiseward import ArgumentError, stickers
from noiseward.images import to_images
from noiseward.rewards.count import Count, keep_apart
from noiseward.rewards.detectors import GroundingDino, Owl
from noiseward.rewards.parse import make_reward
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD
from tests.checkpoints import bert_tokenizer, make_images


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owl")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer")
    layers = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    text = {**layers, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 0,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    vision = {**layers, "image_size": 64, "patch_size": 8}
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=32))
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 64, "width": 64}}))
    return folder


def overlap(one, other):
    """Intersection over union, by hand."""
    wide, tall = (max(0.0, min(one[k + 2], other[k + 2]) - max(one[k], other[k])) for k in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * tall / (sum(areas) - wide * tall)


def test_no_two_boxes_that_remain_overlap_and_each_that_goes_overlaps_a_likelier_one():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(60, 2, generator=generator)], 1)
    scores = torch.rand(60, generator=generator)
    kept = keep_apart(boxes, scores).tolist()
    assert 5 < len(kept) < 60 and scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    plain = boxes.tolist()
    assert all(overlap(plain[i], plain[j]) <= 0.5 for i in kept for j in kept if i < j)
    for gone in set(range(60)) - set(kept):
        assert any(overlap(plain[gone], plain[k]) > 0.5 and scores[k] >= scores[gone] for k in kept)


def make_count(number):
    tokenizer = CLIPTokenizer.from_pretrained(stickers.path() / "tokenizer")
    return Count(Owl(Detector(), tokenizer, 8, target="duck"), number=number)


class Detector(torch.nn.Module):
    """Sees three boxes; the logits of two are pixels of the image."""

    config = types.SimpleNamespace(text_config=types.SimpleNamespace(max_position_embeddings=16))

    def forward(self, pixel_values, **words):
        boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.8, 0.79, 0.2, 0.2]])
        logits = 20 * pixel_values[:, 0, 0, :3]
        return types.SimpleNamespace(logits=logits[..., None], pred_boxes=boxes[None])


def test_things_are_counted_once_and_pull_into_sight_or_out_of_it():
    image = torch.full((1, 3, 8, 8), 0.0)
    image[0, 0, 0, :3] = torch.tensor([1.0, 0.9, 0.8])  # the third is the second again
    for number, expected in ((2, 0.0), (5, -3.0), (0, -2.0)):
        reward = make_count(number)
        assert reward.count(image).item() == pytest.approx(2, abs=1e-3)
        assert reward(image, None).item() == pytest.approx(expected, abs=1e-3)
    faint = image.clone()
    faint[0, 0, 0, 1:3] = torch.tensor([0.46, 0.0])
    for number, sign in ((2, 1), (1, -1)):
        leaf = faint.clone().requires_grad_()
        reward = make_count(number)
        (gradient,) = torch.autograd.grad(reward(leaf, None).sum(), leaf)
        assert sign * gradient[0, 0, 0, 1] > 0.1 and gradient[0, 0, 0, 2] == 0


def test_the_count_is_that_of_transformers_on_the_image_filled_up_to_a_square(owl):
    reward, sample = make_reward(f"count:target=duck,number=3,model={owl},threshold=0.5"), make_images(3, 48, 64)
    model = Owlv2ForObjectDetection.from_pretrained(owl).eval()
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (CLIP_MEAN, CLIP_STD))
    words = CLIPTokenizer.from_pretrained(owl)(
        ["a photo of a duck"], padding="max_length", max_length=16, return_tensors="pt"
    )
    for row in range(3):
        square = torch.full((3, 64, 64), 0.5)
        square[:, :48] = sample[row]
        with torch.no_grad():
            seen = model(
                pixel_values=((square - mean) / std)[None],
                input_ids=words.input_ids,
                attention_mask=words.attention_mask,
            )
        logits = seen.logits[0, :, 0]
        left, top, wide, tall = seen.pred_boxes[0].unbind(1)
        boxes = torch.stack([left - wide / 2, top - tall / 2, left + wide / 2, top + tall / 2], 1)
        expected = (4 * logits[keep_apart(boxes, logits)]).sigmoid().sum().item()
        assert reward.count(sample[row : row + 1]).item() == pytest.approx(expected, rel=1e-4)
        assert reward(sample, None)[row].item() == pytest.approx(-abs(reward.count(sample)[row].item() - 3))


def test_rows_are_scored_alone_with_a_gradient_that_agrees_with_finite_differences(owl):
    reward, sample = make_reward(f"count:target=duck,number=3,model={owl},threshold=0.5"), make_images(3)
    scores = reward(sample, None)
    alone = torch.cat([reward(sample[row : row + 1], None) for row in range(3)])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)
    leaf = (0.05 + 0.9 * sample[:1].double()).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf, None).sum(), leaf)
    direction, h = gradient / gradient.norm(), 1e-3  # OWLv2 gives its logits in float32
    up, down = (reward(leaf.detach() + sign * h * direction, None).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.01)


@pytest.fixture(scope="module")
def grounding(tmp_path_factory):
    """A Grounding DINO that looks at images with a shorter side of 64 pixels."""
    folder = tmp_path_factory.mktemp("grounding")
    torch.manual_seed(0)
    swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    layers = {f"{part}_{name}": value for part in ("encoder", "decoder")
              for name, value in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(image_size=64, out_features=["stage2", "stage3", "stage4"], **swin),
        text_config={**bert, "intermediate_size": 32, "vocab_size": 20}, d_model=32, num_queries=12, max_text_len=16,
        **layers,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 100}).save_pretrained(folder)
    return folder


def test_grounding_dino_counts_what_transformers_sees_with_the_official_processor(grounding):
    reward = make_reward(f"count:target=A red duck,number=3,model={grounding},threshold=0.5")
    model = GroundingDinoForObjectDetection.from_pretrained(grounding).eval()
    processor = GroundingDinoImageProcessorPil.from_pretrained(grounding)
    words = bert_tokenizer()(["a red duck."], return_tensors="pt")
    sample, found = make_images(3, 40, 80), []
    given: list[torch.Tensor] = []
    reward.model.register_forward_pre_hook(lambda _, __, known: given.append(known["pixel_values"]), with_kwargs=True)
    for row, image in enumerate(to_images(sample)):
        seen = processor(image, return_tensors="pt")
        assert seen.pixel_values.shape[2:] == (50, 100) and bool(seen.pixel_mask.all())
        logits, places = reward.detect(sample[row : row + 1])
        far = (given[-1] - seen.pixel_values).abs() * 0.229
        assert far.max() < 5 / 255 and far.mean() < 0.6 / 255
        with torch.no_grad():  # which boxes are looked at closely jumps with the least change of a pixel
            boxes = model(pixel_values=given[-1], pixel_mask=seen.pixel_mask, **words)
        assert boxes.logits.isinf().any()
        torch.testing.assert_close(logits, boxes.logits[0].amax(1))
        left, top, wide, tall = boxes.pred_boxes[0].unbind(1)
        corners = torch.stack([left - wide / 2, top - tall / 2, left + wide / 2, top + tall / 2], 1)
        found.append(reward.count(sample[row : row + 1]).item())
        assert found[-1] == pytest.approx((4 * logits[keep_apart(corners, logits)]).sigmoid().sum().item(), rel=1e-4)
    assert len(set(found)) == 3
    leaf = (0.05 + 0.9 * sample[:1].double()).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf, None).sum(), leaf)
    direction, h = gradient / gradient.norm(), 1e-5
    up, down = (reward(leaf.detach() + sign * h * direction, None).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("size", [(48, 64), (64, 64), (40, 80), (30, 91), (91, 30), (64, 99)])
def test_grounding_dinos_sizes_are_those_of_the_official_processor(grounding, size):
    reward = make_reward(f"count:target=duck,model={grounding}")
    assert isinstance(reward.detect, GroundingDino)
    (image,) = to_images(make_images(1, *size))
    seen = GroundingDinoImageProcessorPil.from_pretrained(grounding)(image, return_tensors="pt").pixel_values
    assert reward.detect.size(*size) == tuple(seen.shape[2:])


def test_bad_arguments_are_one_line(owl):
    for text, says in (
        ("count", "reward 'count' needs a thing, as in count:target=duck,number=3"),
        (f"count:target=duck,number=-1,model={owl}", "number must be >= 0 and threshold"),
    ):
        with pytest.raises(ArgumentError, match=says):
            make_reward(text)
