"""Which settings fit a card: sums that follow from their parts, and a command that loads nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import cards, counted
from noiseward import ArgumentError
from noiseward.pipelines.cards import load_cards
from noiseward.pipelines.fit import CONTEXT, PRECISIONS, list_settings, load_needs, needs_of, read_size

PAGE = (Path(__file__).parents[1] / "docs" / "my-card.md").read_text(encoding="utf-8")
SDXL = load_needs()["sdxl"]
OWN = {"precision": "bfloat16", "offload": None, "decoder": None}


def test_weights_are_counted_once_and_not_as_new_tensors():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).requires_grad_(False)
    x = torch.randn(1, 64, requires_grad=True)
    _, most = counted.cost(lambda: torch.autograd.grad(net(x).sum(), x))
    assert most < 64 * 64 * 4  # less than one weight, although each is used as a view of itself


def test_what_was_counted_is_what_is_counted_now():
    found = cards.count("sd15")
    for field in dataclasses.fields(found):
        one, other = getattr(found, field.name), getattr(load_needs()["sd15"], field.name)
        assert one == other or one == pytest.approx(other, rel=0.01), field.name


def test_each_step_down_takes_less():
    takes = [SDXL.bytes_of(**{**OWN, "memory": memory}) for memory in ("fast", "balanced", "low")]
    takes.append(SDXL.bytes_of(**{**OWN, "memory": "low", "offload": "models"}))
    takes.append(SDXL.bytes_of(**{**OWN, "memory": "low", "offload": "models", "decoder": "tiny"}))
    takes.append(SDXL.bytes_of(**{**OWN, "memory": "low", "offload": "layers", "decoder": "tiny"}))
    assert takes == sorted(takes, reverse=True) and len(set(takes)) == len(takes)


def test_quantized_weights_count_at_their_size_and_again_where_a_graph_keeps_them():
    flux = load_needs()["flux-dev"]
    low = {name: flux.bytes_of(**{**OWN, "precision": name, "memory": "low"}) for name in PRECISIONS}
    assert low["NF4"] < low["GGUF Q4"] < low["GGUF Q8"] < low["bfloat16"]
    balanced = {name: flux.bytes_of(**{**OWN, "precision": name, "memory": "balanced"}) for name in PRECISIONS}
    assert balanced["GGUF Q8"] > balanced["bfloat16"] > balanced["NF4"]


@pytest.mark.parametrize("name", load_needs())
def test_what_fits_grows_with_the_card_and_fits(name):
    assert name in load_cards()
    needs, before = load_needs()[name], 0
    for size in cards.CARDS:
        found = list_settings(needs, 1e9 * size)
        assert all(setting.room <= 1e9 * size for setting in found)
        assert not any(setting.precision == "NF4" and setting.offload == "layers" for setting in found)
        assert len(found) >= before
        before = len(found)
    assert before == len(PRECISIONS)


def test_the_goals_are_met():
    rows = re.search(r"<!-- goals -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)[1].splitlines()[2:]
    assert len(rows) == len(cards.GOALS) and not any("more" in row for row in rows)
    for name, (most, precisions) in cards.GOALS.items():
        assert any(1.1 * one.bytes <= most for one in list_settings(load_needs()[name], most + CONTEXT, precisions))


def test_the_page_has_a_line_for_each_model():
    rows = re.search(r"<!-- cards -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)[1].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(load_needs()) == list(cards.MODELS)
    assert set(load_needs()) == set(load_cards()) - {"stickers"}


def test_sizes_are_read_and_what_is_none_is_one_line():
    assert [read_size(text) for text in ("12GB", "1.5 gb", "24", "1GiB", "16g")] == [12e9, 1.5e9, 24e9, 2.0**30, 16e9]
    assert read_size("81559MiB") == 81559 * 2.0**20  # as nvidia-smi has it
    for text in ("much", "0", "12TB", "-3GB", "nan", "", "9" * 400, "12\nGB", "1e9"):
        with pytest.raises(ArgumentError, match="fit must be a size, as 12GB or 8192MiB, got"):
            read_size(text)
    with pytest.raises(ArgumentError, match="what model 'sdxk' needs was not counted; did you mean 'sdxl'"):
        needs_of("sdxk")


def test_the_doctor_says_what_fits_without_loading_anything(run, monkeypatch):
    monkeypatch.setattr("noiseward.pipelines.load.load_pipeline", None)
    status, out, _ = run("doctor", "--fit", "12GB", "--model", "sdxl")
    assert status == 0 and out.count("sdxl") == len(list_settings(SDXL, 12e9)) and "Computed" in out
    _, every, _ = run("doctor", "--fit", "12GB")
    assert all(name in every for name in load_needs())
    _, text, _ = run("doctor", "--fit", "1GB", "--model", "flux-dev")
    assert "flux-dev: nothing fits into 1 GB" in text
    status, _, err = run("doctor", "--fit", "12GB", "--width", "512", "--memory", "low")
    assert status == 2 and "takes only --model and --json, got --memory, --width" in err
    _, text, _ = run("doctor", "--fit", "12GB", "--model", "sdxl", "--json")
    assert json.loads(text)["sdxl"][0]["memory"] == list_settings(SDXL, 12e9)[0].memory
    assert run("doctor", "--fit", "lots")[0] == 2
