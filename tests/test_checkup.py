"""The doctor's questions, asked of samplers that are known to be well and ill."""

from __future__ import annotations

import torch
from torch import nn

from noiseward import DiffusersSampler, FunctionReward, FunctionSampler, GradientAscent
from noiseward.align import prepare
from noiseward.budget import Budget
from noiseward.checkup import Finding, examine, verdict
from tests.tiny import CALL, stable_diffusion

MEAN = FunctionReward(lambda sample: sample.flatten(1).mean(1), name="mean")


def findings(sampler):
    return list(examine(prepare(sampler, "a", MEAN, optimizer=GradientAscent(), budget=Budget(steps=0))))


def toy(fn):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return FunctionSampler(lambda batch: fn(net, torch.randn(batch, 3, dtype=torch.float64)), net)


def test_a_good_sampler_is_fit():
    found = findings(toy(lambda net, x: net(net(x))))
    assert all(finding.fine for finding in found)
    assert verdict(found) == "fit for noise optimization"


def test_a_gradient_that_misses_the_denoiser_is_not():
    found = findings(toy(lambda net, x: x + 3 * net(x).detach()))
    one, other = (finding.says for finding in found if not finding.fine)
    assert "against finite difference " in one and "random directions" in other
    assert verdict(found).startswith("not fit")


def test_a_gradient_that_is_right_along_itself_alone_is_not():
    """It lacks a part at right angles to what there is of it."""

    found = findings(toy(lambda net, x: x @ torch.diag(x.new_tensor([1.0, 0.0, 0.0])) + (30 * x[:, 1:2]).detach()))
    wrong = [finding.says for finding in found if not finding.fine]
    assert len(wrong) == 1 and "random directions" in wrong[0]


def test_a_sampler_without_a_gradient_is_not():
    found = findings(toy(lambda net, x: net(x).detach()))
    assert not found[-1].fine and verdict(found).startswith("not fit")


def test_rows_that_lean_on_each_other_are_not():
    found = findings(toy(lambda net, x: net(x) + x[:1] + len(x)))
    assert [finding.says for finding in found if not finding.fine] == ["a row is the same alone and in a batch, to 1"]


def test_an_exception_that_harms_nothing_is_named_in_the_verdict():
    assert verdict([Finding(True, ""), Finding(False, "", must=False)]).endswith("with the exception above")


def test_memory_is_that_of_the_graph():
    """Each call adds its activations where they are kept, and next to nothing where they are recomputed."""
    kept = {}
    for memory in ("fast", "balanced"):
        for steps in (2, 4):
            sampler = DiffusersSampler(stable_diffusion(), memory=memory, **{**CALL, "num_inference_steps": steps})
            says = findings(sampler)[-1].says
            assert f"{steps} denoiser calls" in says
            kept[memory, steps] = float(says.split("keeps ")[1].split()[0])
    assert kept["fast", 4] - kept["fast", 2] > 20 * (kept["balanced", 4] - kept["balanced", 2])
    assert kept["balanced", 2] > 0
