"""Git LFS pointers instead of weights, wherever weights are read."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from noiseward import ModelError
from noiseward.lfs import check_pointers, is_pointer
from noiseward.pipelines.load import load_pipeline
from noiseward.rewards.parse import make_reward
from tests.checkpoints import small_clip
from tests.tiny import stable_diffusion

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 3438167540\n"
)


def says_pointer(act) -> str:
    with pytest.raises(ModelError, match="is a Git LFS pointer, not the weights; run 'git lfs pull'") as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_in_a_pipeline_folder(tmp_path, part):
    stable_diffusion().save_pretrained(tmp_path)
    (weights,) = (tmp_path / part).glob("*.safetensors")
    weights.write_bytes(POINTER)
    assert str(weights) in says_pointer(lambda: load_pipeline(tmp_path))


def test_a_pointer_that_is_not_needed_is_no_matter(tmp_path):
    stable_diffusion().save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(POINTER)
    assert load_pipeline(tmp_path).unet is not None


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_as_a_checkpoint_in_one_file(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    says_pointer(lambda: load_pipeline(tmp_path / name))


def test_as_lora_weights(tmp_path):
    stable_diffusion().save_pretrained(tmp_path / "model")
    (tmp_path / "style.safetensors").write_bytes(POINTER)
    says_pointer(lambda: load_pipeline(tmp_path / "model", lora=tmp_path / "style.safetensors"))


@pytest.mark.parametrize("name", ["head.pth", "head.safetensors"])
def test_as_weights_of_a_head(tmp_path, name):
    clip = small_clip(tmp_path / "clip")
    (tmp_path / name).write_bytes(POINTER)
    says_pointer(lambda: make_reward(f"aesthetic:path={tmp_path / name},model={clip}"))


def test_as_weights_of_a_clip(tmp_path):
    clip = small_clip(tmp_path / "clip")
    (clip / "model.safetensors").write_bytes(POINTER)
    says_pointer(lambda: make_reward(f"clip:model={clip}"))


def test_as_weights_of_a_classifier(tmp_path):
    clip = small_clip(tmp_path / "clip")
    (clip / "model.safetensors").write_bytes(POINTER)
    says_pointer(lambda: make_reward(f"classifier:model={clip},target=0"))


def test_a_damaged_file_is_not_called_one(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:20])
    with pytest.raises(ModelError) as caught:
        load_pipeline(tmp_path / "b.safetensors")
    assert "LFS" not in str(caught.value)


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert not is_pointer(tmp_path / "model.safetensors")
    check_pointers(tmp_path)
