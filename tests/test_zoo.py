"""Each reward with weights: loaded from the published format, and equal to a computation of its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from noiseward import ArgumentError, ModelError, NoisewardWarning, RewardError
from noiseward.rewards.checkpoints import build_head, read_checkpoint
from noiseward.rewards.image_reward import MEAN, STD
from noiseward.rewards.parse import make_reward
from noiseward.rewards.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from tests.checkpoints import bert_tokenizer, blip, linear_head, make_images, open_clip, small_clip
from tests.families.text import clip_tokenizer
from tests.forwards import blip_forward, head, open_clip_forward

PROMPTS = ["a duck", "a heart on a red background", "a duck"]
PUBLISHED = "sac+logos+ava1-l14-linearMSE.pth"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / PUBLISHED


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return small_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    """A folder with an HPSv2 checkpoint and CLIP's tokenizer, and the checkpoint's tensors."""
    folder = tmp_path_factory.mktemp("hps")
    tokenizer = clip_tokenizer(32)
    state = open_clip(len(tokenizer), places=tokenizer.model_max_length)
    torch.save({"epoch": 3, "state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    tokenizer.save_pretrained(folder)
    return folder, state


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with an ImageReward checkpoint and BERT's tokenizer, and the checkpoint's tensors."""
    folder = tmp_path_factory.mktemp("blip")
    tokenizer, state = bert_tokenizer(), blip(len(bert_tokenizer()) + 2)
    torch.save(state, folder / "ImageReward.pt")
    tokenizer.save_pretrained(folder)
    return folder, state


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    labels = {0: "tench", 1: "goldfish", 2: "great white shark"}
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
        id2label=labels, label2id={label: index for index, label in labels.items()},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def zoo(clip, hps, bert, vit, tmp_path_factory):
    """Every reward with weights, by name."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.save(linear_head(16), folder / "head.pth")
    Image.fromarray((make_images(1, 40, 30)[0].permute(1, 2, 0) * 255).byte().numpy()).save(folder / "reference.png")
    texts = {
        "clip": f"clip:model={clip}",
        "pickscore": f"pickscore:path={clip}",
        "aesthetic": f"aesthetic:path={folder}/head.pth,model={clip}",
        "similarity": f"similarity:path={folder}/reference.png,model={clip}",
        "classifier": f"classifier:model={vit},target=goldfish",
        "hpsv2": f"hpsv2:path={hps[0]}",
        "imagereward": f"imagereward:path={bert[0]}",
    }
    return {name: make_reward(text) for name, text in texts.items()} | {"reference": make_images(1, 40, 30)}


REWARDS = ("clip", "pickscore", "aesthetic", "similarity", "classifier", "hpsv2", "imagereward")


# ---- laws ----


@pytest.mark.parametrize("name", REWARDS)
def test_a_row_has_the_score_it_has_alone_and_has_it_again(zoo, name):
    sample, reward = make_images(), zoo[name]
    scores = reward(sample, PROMPTS)
    assert reward.name == name and scores.shape == (3,) and scores.unique().numel() == 3
    assert torch.equal(reward(sample, PROMPTS), scores)
    alone = torch.cat([reward(sample[row : row + 1], PROMPTS[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REWARDS)
def test_gradients_agree_with_finite_differences(zoo, name):
    reward, sample = zoo[name], make_images(1).requires_grad_()
    assert reward.differentiable
    (gradient,) = torch.autograd.grad(reward(sample, PROMPTS[:1]).sum(), sample)
    direction = gradient / gradient.norm()
    h = 0.02
    up, down = (reward((sample + sign * h * direction).detach(), PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.02)


@pytest.mark.parametrize("name", REWARDS)
def test_nothing_but_the_image_gets_a_gradient(zoo, name):
    parts = [part for part in vars(zoo[name]).values() if isinstance(part, torch.nn.Module)]
    parts += [zoo[name].encoder.model] if name in ("aesthetic", "similarity") else []
    assert parts and not any(p.requires_grad or part.training for part in parts for p in part.parameters())


@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2", "imagereward"])
def test_rewards_that_compare_with_a_prompt_need_one(zoo, name):
    with pytest.raises(RewardError, match=f"reward '{name}' compares images with prompts"):
        zoo[name](make_images(), None)


@pytest.mark.parametrize("name", ["aesthetic", "similarity", "classifier"])
def test_rewards_of_the_image_alone_need_no_prompt(zoo, name):
    assert torch.equal(zoo[name](make_images(), None), zoo[name](make_images(), PROMPTS))


# ---- each against a computation of its own ----


def vectors(folder, sample: Tensor) -> Tensor:
    """A CLIP's unit vectors by transformers alone, with the official processor on 8-bit images."""
    model = CLIPModel.from_pretrained(folder).eval()
    levels = [Image.fromarray((row.permute(1, 2, 0) * 255).round().byte().numpy()) for row in sample]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(levels, return_tensors="pt").pixel_values
    with torch.no_grad():
        return F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)


def test_pickscore_is_the_logit_of_transformers(zoo, clip):
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    words = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        texts = F.normalize(model.get_text_features(**words).pooler_output, dim=1)
    expected = model.logit_scale.exp().item() * (vectors(clip, make_images()) * texts).sum(1)
    torch.testing.assert_close(zoo["pickscore"](make_images(), PROMPTS), expected, rtol=0, atol=0.03)
    assert model.logit_scale.exp().item() == pytest.approx(14.3, abs=0.1)  # so that the scale is seen to matter


def test_aesthetic_is_the_head_on_the_unit_vector(zoo, clip):
    expected = head(linear_head(16), vectors(clip, make_images()))
    torch.testing.assert_close(zoo["aesthetic"](make_images(), None), expected, rtol=0, atol=2e-3)


def test_the_published_head_loads_and_scores_as_head():
    path = Path(os.environ.get("NOISEWARD_LAION_HEAD", BESIDE))
    if not path.exists():
        pytest.skip("the published head is not here: set NOISEWARD_LAION_HEAD to its file")
    loaded = build_head(read_checkpoint(path), path)
    shapes = [tuple(part.shape) for part in loaded.parameters() if part.ndim == 2]
    assert shapes == [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
    state = torch.load(path, map_location="cpu", weights_only=True)
    embedding = F.normalize(torch.randn(2, 768, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    exact = head({key: part.double() for key, part in state.items()}, embedding)
    torch.testing.assert_close(loaded(embedding.float())[:, 0].double(), exact, rtol=0, atol=1e-4)


def test_similarity_is_the_cosine_with_the_reference_and_one_with_itself(zoo, clip):
    expected = vectors(clip, make_images()) @ vectors(clip, zoo["reference"])[0]
    torch.testing.assert_close(zoo["similarity"](make_images(), None), expected, rtol=0, atol=3e-3)
    assert zoo["similarity"](zoo["reference"], None).item() == pytest.approx(1, abs=1e-5)


def test_classifier_is_the_log_probability_of_transformers(zoo, vit):
    model, processor = ViTForImageClassification.from_pretrained(vit).eval(), ViTImageProcessorPil.from_pretrained(vit)
    levels = [Image.fromarray((row.permute(1, 2, 0) * 255).round().byte().numpy()) for row in make_images()]
    with torch.no_grad():
        logits = model(**processor(levels, return_tensors="pt")).logits
    expected = torch.tensor([(row.exp() / row.exp().sum()).log()[1] for row in logits])
    torch.testing.assert_close(zoo["classifier"](make_images(), None), expected, rtol=0, atol=0.02)
    assert (
        make_reward(f"classifier:model={vit},target=1").target
        == make_reward(f"classifier:model={vit},target=GoldFish").target
    )


def test_hpsv2_is_open_clips_forward_pass(zoo, hps):
    folder, state = hps
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPTS, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    sample = make_images(3, 60, 60)
    expected = open_clip_forward(state, zoo["hpsv2"].preprocess(sample), ids)
    torch.testing.assert_close(zoo["hpsv2"](sample, PROMPTS), expected, rtol=0, atol=1e-5)
    assert zoo["hpsv2"].preprocess(sample).shape == (3, 3, 28, 28)


def test_hpsv2_fits_the_longer_side_and_fills_up_with_black(zoo):
    prepare = zoo["hpsv2"].preprocess
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (CLIP_MEAN, CLIP_STD))
    found = prepare(torch.ones(1, 3, 30, 60))[0] * std + mean
    expected = torch.zeros(3, 28, 28)
    expected[:, 7:21] = 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert prepare(torch.ones(1, 3, 60, 30)).shape == (1, 3, 28, 28)


@pytest.mark.parametrize("name", ["clip", "pickscore", "hpsv2", "imagereward"])
def test_a_reward_says_once_which_words_it_does_not_see(zoo, name):
    sample, long = make_images(2), "a duck on a pond " * 40 + "a duck"
    with pytest.warns(NoisewardWarning, match=f"reward '{name}' reads the first .* does not see '.*a duck'") as caught:
        zoo[name](sample, [long, long])
    assert len(caught) == 1
    zoo[name](sample, [long, "a duck"])  # warnings are errors


def test_imagereward_is_blips_forward_pass(zoo, bert):
    folder, state = bert
    words = bert_tokenizer()(PROMPTS, padding="max_length", max_length=35, truncation=True, return_tensors="pt")
    sample = make_images(3, 50, 50)
    expected = blip_forward(state, zoo["imagereward"].preprocess(sample), words.input_ids, words.attention_mask)
    torch.testing.assert_close(zoo["imagereward"](sample, PROMPTS), expected, rtol=1e-4, atol=1e-4)
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


@pytest.mark.parametrize(("height", "width"), [(32, 35), (47, 32), (64, 45)])
def test_imagereward_crops_as_torchvision_does(zoo, height, width):
    """`Resize(n)` then `CenterCrop(n)`: Pillow's bicubic, and half of an odd rest rounded to even."""
    sample = make_images(1, height, width)
    levels = Image.fromarray((sample[0].permute(1, 2, 0) * 255).round().byte().numpy())
    size = (32, int(32 * height / width)) if width <= height else (int(32 * width / height), 32)
    resized = levels.resize(size, Image.Resampling.BICUBIC)
    left, top = (int(round((side - 32) / 2)) for side in resized.size)
    cropped = torch.from_numpy(numpy.array(resized.crop((left, top, left + 32, top + 32)))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (CLIP_MEAN, CLIP_STD))
    found = zoo["imagereward"].preprocess(sample)[0] * std + mean
    assert (found - cropped).abs().max() < 5 / 255 and (found - cropped).abs().mean() < 0.6 / 255


# ---- files that are not there, or are others ----


def damage(state, change):
    state = dict(state)
    change(state)
    return state


def rename(state):
    state["visual.ln_before.weight"] = state.pop("visual.ln_pre.weight")


def reshape(state):
    for number in range(4):
        key = f"{'visual.' if number < 3 else ''}transformer.resblocks.{number % 3}.mlp.c_proj.bias"
        state[key] = torch.zeros(7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename, "'visual.ln_pre.weight' is missing; 'visual.ln_before.weight' is unknown$"),
        (reshape, r"'transformer.resblocks.0.mlp.c_proj.bias' is \(7,\), not \(32,\); .* and 1 more$"),
        (lambda state: state.pop("visual.conv1.weight"), "has no 'visual.conv1.weight'"),
        (lambda state: state.update({"visual.proj": torch.zeros(2, 3)}), r"'visual.proj' is \(2, 3\), not \(32, 24\)$"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_differences(hps, tmp_path, change, says):
    folder, state = hps
    path = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": damage(state, change)}, path)
    with pytest.raises(ModelError, match=says) as caught:
        make_reward(f"hpsv2:path={path},tokenizer={folder}")
    assert "\n" not in str(caught.value) and "does not fit" in str(caught.value)


def test_an_imagereward_that_does_not_fit_is_refused(bert, tmp_path):
    folder, state = bert
    path = tmp_path / "ImageReward.pt"
    state = damage(state, lambda s: s.update({"mlp.layers.9.weight": torch.zeros(1), "other": torch.zeros(1)}))
    torch.save(state, path)
    with pytest.raises(ModelError, match="'mlp.layers.9.weight' is unknown"):
        make_reward(f"imagereward:path={path},tokenizer={folder}")
    state.pop("mlp.layers.9.weight")
    torch.save(state, path)
    with pytest.raises(ModelError, match="'other' is unknown"):
        make_reward(f"imagereward:path={path},tokenizer={folder}")


def test_a_head_for_another_encoder_is_refused_and_code_in_a_pickle_is_not_run(clip, tmp_path):
    torch.save({"layers.0.weight": torch.zeros(3, 16)}, tmp_path / "head.pth")
    with pytest.raises(
        ModelError, match=r"'layers.0.weight' is \(3, 16\), not \(1024, 16\); 'layers.0.bias' is missing"
    ):
        make_reward(f"aesthetic:path={tmp_path}/head.pth,model={clip}")
    torch.save(linear_head(12), tmp_path / "head.pth")
    with pytest.raises(ModelError, match="takes vectors of 12 numbers, the CLIP gives 16"):
        make_reward(f"aesthetic:path={tmp_path}/head.pth,model={clip}")
    torch.save({"run": os.getcwd}, tmp_path / "head.pth")
    with pytest.raises(ModelError, match="holds more than tensors"):
        make_reward(f"aesthetic:path={tmp_path}/head.pth,model={clip}")
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be read"):
        make_reward(f"aesthetic:path={tmp_path}/head.safetensors,model={clip}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("similarity", "needs an image: give one, as in similarity:path=image.png"),
        (
            "similarity:path=nowhere.png,model={clip}",
            "similarity:path: expected the path of an image, got 'nowhere.png'",
        ),
        ("similarity:path={clip}/config.json,model={clip}", "expected the path of an image, got "),
        ("classifier", "needs a model and a class, as in classifier:model="),
        ("classifier:model={vit},target=goldfsh", "has no class 'goldfsh' among its 3; did you mean 'goldfish'"),
        ("classifier:model={vit},target=3", "has no class '3' among its 3"),
    ],
)
def test_arguments_that_name_nothing_are_one_line(clip, vit, text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        make_reward(text.format(clip=clip, vit=vit))
    assert "\n" not in str(caught.value)


def test_a_clip_whose_weights_do_not_fit_its_configuration_is_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state.pop("visual_projection.weight")
    state["text_projection.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    says = r"'visual_projection.weight' is missing; 'text_projection.weight' is \(3, 3\), not \(16, 32\)"
    with pytest.raises(ModelError, match=says):
        make_reward(f"clip:model={tmp_path}")


def test_a_preprocessing_of_its_own_makes_the_difference(zoo):
    """The checks above would be idle if any preprocessing gave the same score."""
    clip = zoo["clip"]
    other = Preprocess(None, clip.preprocess.crop, CLIP_MEAN, CLIP_STD)
    assert (other(make_images()) - clip.preprocess(make_images())).abs().mean() > 0.05
