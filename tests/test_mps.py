"""MPS, built small in its published format, next to its forward pass written out position by position."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from noiseward import ModelError
from noiseward.rewards.parse import make_reward
from tests.checkpoints import make_images, mps
from tests.families.text import clip_tokenizer
from tests.forwards import attend

PROMPTS = ["a duck", "a heart on a red background", "a duck"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mps")
    tokenizer = clip_tokenizer(32)
    state = mps(len(tokenizer), places=tokenizer.model_max_length)
    save_file(state, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    return folder, state, tokenizer


@pytest.fixture(scope="module")
def reward(folder):
    return make_reward(f"mps:path={folder[0]},condition=a b c,threshold=0.5")


def forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, condition: Tensor, threshold: float) -> Tensor:
    """MPS on its own names, one row, one head and one position at a time."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"mps.model.{name}.weight"], state.get(f"mps.model.{name}.bias"))

    def tower(name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in (f"{name}.encoder.layers.{number}" for number in (0, 1)):
            y = norm(f"mps.model.{block}.layer_norm1", x)
            parts = (linear(f"{block}.self_attn.{part}_proj", y) for part in "qkv")
            x = x + linear(f"{block}.self_attn.out_proj", attend(*parts, 16, mask))
            y = F.gelu(linear(f"{block}.mlp.fc1", norm(f"mps.model.{block}.layer_norm2", x)))
            x = x + linear(f"{block}.mlp.fc2", y)
        return x

    def read(ids: Tensor) -> Tensor:
        table, order = (state[f"mps.model.text_model.embeddings.{n}_embedding.weight"] for n in ("token", "position"))
        x = tower("text_model", table[ids] + order, torch.ones(len(order), len(order)).tril().bool())
        return linear("text_projection", norm("mps.model.text_model.final_layer_norm", x))

    def rotate(x: Tensor, place: int) -> Tensor:
        pairs = torch.complex(x[:2], x[2:])
        angles = torch.tensor([place * 10000.0 ** (-k / 2) for k in range(2)])
        turned = pairs * torch.polar(torch.ones(2), angles)
        return torch.cat([turned.real, turned.imag])

    def gated(x: Tensor) -> Tensor:
        return x[: len(x) // 2] * x[len(x) // 2 :] * x[len(x) // 2 :].sigmoid()

    e = "mps.model.vision_model.embeddings."
    x = F.conv2d(pixels, state[f"{e}patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{e}class_embedding"].expand(len(x), 1, -1), x], 1) + state[f"{e}position_embedding.weight"]
    images = linear("visual_projection", tower("vision_model", norm("mps.model.vision_model.pre_layrnorm", x)))
    words, (asked,) = read(ids), read(condition)
    scores = []
    for row in range(len(images)):
        near = torch.stack([max(word @ other for other in asked) for word in words[row]])
        kept = [word for word, n in zip(words[row], near, strict=True) if n / near.max() > threshold]
        assert 0 < len(kept) < len(near)
        x = images[row]
        for number in (0, 1):
            w = {name.removeprefix(f"mps.cross_model.layers.{number}."): part for name, part in state.items()}
            y, new = norm(f"mps.cross_model.layers.{number}.0.fn.norm", x), []
            pairs = [(w["0.fn.to_kv.weight"] @ word).chunk(2) for word in kept]
            for place in range(len(x)):
                mixed = []
                for query in (w["0.fn.to_q.weight"] @ y[place]).chunk(3):
                    share = torch.stack([query @ key / math.sqrt(4) for key, _ in pairs]).softmax(0)
                    mixed.append(sum(s * value for s, (_, value) in zip(share, pairs, strict=True)))
                inner = w["0.fn.ff.2.weight"] @ gated(w["0.fn.ff.0.weight"] @ y[place])
                new.append(x[place] + w["0.fn.to_out.weight"] @ torch.cat(mixed) + inner)
            x = torch.stack(new)
            y, new = norm(f"mps.cross_model.layers.{number}.1.fn.norm", x), []
            fused = y @ w["1.fn.fused_attn_ff_proj.weight"].T
            keys = [rotate(fused[place, 12:16], place) for place in range(len(x))]
            for place in range(len(x)):
                mixed = []
                for query in fused[place, :12].chunk(3):
                    turned = rotate(query, place)
                    share = torch.stack([turned @ key / math.sqrt(4) for key in keys]).softmax(0)
                    mixed.append(share @ fused[:, 16:20])
                inner = w["1.fn.ff_out.1.weight"] @ gated(fused[place, 20:])
                new.append(x[place] + w["1.fn.attn_out.weight"] @ torch.cat(mixed) + inner)
            x = torch.stack(new)
        text = words[row, int(ids[row].argmax())]
        scores.append(state["mps.model.logit_scale"].exp() * F.cosine_similarity(x[0], text, dim=0))
    return torch.stack(scores)


def test_it_is_its_forward_pass_written_out(folder, reward):
    _, state, tokenizer = folder
    length, sample = tokenizer.model_max_length, make_images()
    ids, condition = (
        tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        for texts in (PROMPTS, ["a b c"])
    )
    found = reward(sample, PROMPTS)
    assert found.unique().numel() == 3
    expected = forward(state, reward.preprocess(sample), ids, condition, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_rows_are_scored_alone_and_the_gradient_agrees_with_finite_differences(reward):
    sample = make_images(2).requires_grad_()
    scores = reward(sample, PROMPTS[:2])
    torch.testing.assert_close(scores[1:], reward(sample[1:], PROMPTS[1:2]), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(scores[0], sample)
    assert not gradient[1].any()
    direction, h = gradient / gradient.norm(), 0.02
    up, down = (reward((sample + sign * h * direction).detach()[:1], PROMPTS[:1]).item() for sign in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(gradient.norm().item(), rel=0.05)


class Program:
    """What a pickle of more than tensors runs."""

    def __reduce__(self):
        return print, ("run",)


def test_a_pickled_program_is_named_and_not_run(folder, tmp_path, capsys):
    place, state, _ = folder
    torch.save(Program(), tmp_path / "MPS_overall_checkpoint.pth")
    with pytest.raises(ModelError, match="holds more than tensors.*is a pickled program: take RE-N-Y/mpsv1 of the hub"):
        make_reward(f"mps:path={tmp_path}/MPS_overall_checkpoint.pth,tokenizer={place}")
    assert "run" not in capsys.readouterr().out
    bare = {name.removeprefix("mps."): part for name, part in state.items() if "1.1.fn.attn_out" not in name}
    save_file(bare, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="'cross_model.layers.1.1.fn.attn_out.weight' is missing"):
        make_reward(f"mps:path={tmp_path},tokenizer={place}")
