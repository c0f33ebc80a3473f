"""The reward of faces without its package: windows by hand, rows, and gradients of networks with random weights."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from noiseward import ModelError
from noiseward.rewards.face import SHAPES, Face, FaceNet, _cut, _square
from noiseward.rewards.parse import make_reward
from tests.checkpoints import make_images


@pytest.fixture(scope="module")
def reward():
    torch.manual_seed(0)
    return Face({kind: FaceNet(kind) for kind in SHAPES})


def test_windows_are_squares_and_are_cut_where_the_image_ends():
    boxes = torch.tensor([[2.0, 3.0, 6.0, 5.0], [-4.0, 6.0, 4.0, 14.0]])
    assert _square(boxes).tolist() == [[2, 2, 6, 6], [-4, 6, 4, 14]]
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    cut = _cut(image, _square(boxes), 2)
    assert cut[0, 0].tolist() == [[22.5, 24.5], [38.5, 40.5]] and cut.shape == (2, 3, 2, 2)
    assert cut[1, 0].tolist() == [[48.5, 50.5], [56.5, 58.5]]  # rows 6 and 7, columns 0 to 3


def test_rows_are_scored_alone_and_the_gradient_agrees_with_finite_differences(reward):
    sample = (0.05 + 0.9 * make_images(3)).requires_grad_()
    scores = reward(sample, None)
    assert scores.unique().numel() == 3 and bool((scores < 0).all())
    torch.testing.assert_close(scores[2:], reward(sample[2:], None), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(scores[0], sample)
    assert not gradient[1:].any()
    direction, h = gradient / gradient.norm(), 0.01
    up, down = (reward((sample + sign * h * direction).detach()[:1], None).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


def test_small_images_have_a_score_too(reward):
    assert reward(torch.rand(1, 3, 8, 12), None).isfinite().all()


@pytest.mark.skipif(find_spec("facenet_pytorch") is not None, reason="its package is installed")
def test_a_missing_package_is_named_with_how_to_install_it():
    with pytest.raises(ModelError, match="needs the package facenet_pytorch; .*pip install --no-deps facenet-pytorch"):
        make_reward("face")
