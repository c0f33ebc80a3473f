"""MTCNN next to the networks and the pipeline of the package that its weights come in, on photographs."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from noiseward import align
from noiseward.rewards.count import keep_apart
from noiseward.rewards.parse import make_reward

if find_spec("facenet_pytorch") is None or find_spec("skimage") is None:
    pytest.skip("needs facenet-pytorch and the photographs of scikit-image", allow_module_level=True)


def batched_nms(boxes: Tensor, scores: Tensor, kinds: Tensor, overlap: float) -> Tensor:
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long)
    return keep_apart(boxes + kinds.to(boxes)[:, None] * (boxes.max() + 1), scores, overlap)


@pytest.fixture(scope="module")
def theirs():
    """Their module, with the one operator of torchvision that it takes."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops",
             "torchvision.ops.boxes")  # fmt: skip
    patch = pytest.MonkeyPatch()
    if find_spec("torchvision") is None:
        modules = {name: types.ModuleType(name) for name in names}
        modules["torchvision.ops.boxes"].__dict__["batched_nms"] = batched_nms
        modules["torchvision.transforms"].__dict__["functional"] = modules["torchvision.transforms.functional"]
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
    from facenet_pytorch.models import mtcnn

    yield mtcnn
    patch.undo()


def read(name: str) -> Path:
    spec = find_spec("skimage")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / name


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    image = numpy.array(Image.open(read("astronaut.png")).convert("RGB"))
    return F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, (256, 256), mode="area")


def test_each_network_is_theirs(theirs):
    reward = make_reward("face")
    generator = torch.Generator().manual_seed(0)
    for kind, name, side in (("pnet", "PNet", 40), ("rnet", "RNet", 24), ("onet", "ONet", 48)):
        x = 2 * torch.rand(3, 3, side, side, generator=generator) - 1
        found, expected = reward.networks[kind](x), getattr(theirs, name)().eval()(x)
        torch.testing.assert_close(found[0].exp(), expected[-1][:, 1], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1], expected[0])


def test_a_face_is_found_as_they_find_it_and_the_suit_below_is_none(theirs, astronaut):
    reward = make_reward("face")
    image = Image.fromarray((astronaut[0].permute(1, 2, 0) * 255).round().byte().numpy())
    _, probabilities = theirs.MTCNN(device="cpu").detect(image)
    assert float(probabilities[0]) > 0.99 and reward(astronaut, None).exp().item() > 0.99
    assert reward(astronaut[:, :, 140:], None).exp().item() < 0.5


def test_faces_score_higher_than_other_patches():
    patches = torch.from_numpy(numpy.load(read("lfw_subset.npy"))).float()[:, None].expand(-1, 3, -1, -1)
    frame = F.pad(F.interpolate(patches / patches.amax(), (100, 100), mode="bicubic").clamp(0, 1), (20,) * 4, value=0.5)
    scores = make_reward("face")(frame, None)
    faces, others = scores[:100], scores[100:]
    assert (faces[:, None] > others).float().mean() > 0.9


def test_it_is_a_requirement_of_a_run():
    how = {"method": "best-of-n:samples=3", "steps": 2, "num_inference_steps": 3, "progress": False, "watch": ()}
    solution = align("stickers", "a duck", "brightness", require=["face>=-40"], **how)
    assert solution.reward.isfinite().all() and (solution.gain >= 0).all()
