"""CycleReward, built small in its published format, next to its forward pass written out."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from noiseward import ArgumentError, ModelError
from noiseward.rewards.catalog import list_repos
from noiseward.rewards.parse import make_reward
from tests.checkpoints import bert_tokenizer, blip, gelu_head, make_images
from tests.forwards import cycle_forward

PROMPTS = ["a duck", "a heart on a red background", "a duck " * 30]


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """A folder with a checkpoint and BERT's tokenizer, and the checkpoint's tensors."""
    folder = tmp_path_factory.mktemp("cycle")
    state = {name: part for name, part in blip(14, places=130).items() if not name.startswith("mlp.")}
    state |= gelu_head(24, "mlp.") | {"blip.text_proj.weight": torch.zeros(8, 24)}
    save_file(state, folder / "model.safetensors")
    bert_tokenizer().save_pretrained(folder)
    return folder, state


def test_it_is_its_forward_pass_written_out_and_reads_128_tokens(cycle, tmp_path):
    folder, state = cycle
    reward, sample = make_reward(f"cyclereward:path={folder}"), make_images()
    words = bert_tokenizer()(PROMPTS, padding="max_length", max_length=128, return_tensors="pt")
    expected = cycle_forward(state, reward.preprocess(sample), words.input_ids, words.attention_mask)
    found = reward(sample, PROMPTS)
    assert reward.name == "cyclereward" and found.unique().numel() == 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.save(state, tmp_path / "CycleReward-Combo.pth")  # as its authors released it
    again = make_reward(f"cyclereward:path={tmp_path}/CycleReward-Combo.pth,tokenizer={folder}")
    assert torch.equal(again(sample, PROMPTS), found)


def test_the_gradient_agrees_with_finite_differences(cycle):
    reward, sample = make_reward(f"cyclereward:path={cycle[0]}"), make_images(1).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(sample, PROMPTS[:1]).sum(), sample)
    direction, h = gradient / gradient.norm(), 0.02
    up, down = (reward((sample + sign * h * direction).detach(), PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


def test_versions_and_what_does_not_fit(cycle, tmp_path):
    folder, state = cycle
    assert list_repos("cyclereward:version=t2i")[0].id.endswith("CycleReward-T2I")
    with pytest.raises(ArgumentError, match="unknown version 'v2' of reward 'cyclereward'"):
        make_reward("cyclereward:version=v2")
    save_file({name: part for name, part in state.items() if name != "mlp.layers.8.bias"}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="'mlp.layers.8.bias' is missing"):
        make_reward(f"cyclereward:path={tmp_path}/x.safetensors,tokenizer={folder}")
