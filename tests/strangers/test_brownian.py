"""Schedulers of diffusers that want torchsde or scipy: with these at hand, they are driven."""

from __future__ import annotations

import pytest
import torch

from noiseward import DiffusersSampler
from tests import schedulers
from tests.battery import slopes


@pytest.mark.parametrize(
    ("name", "draws", "tolerance"),
    [
        ("DPMSolverSDEScheduler", 5, 1e-6),
        ("CosineDPMSolverMultistepScheduler", 4, 1e-6),
        ("LMSDiscreteScheduler", 1, 1e-6),
    ],
)
def test_draws_are_few_and_their_gradients_right(name, draws, tolerance):
    tape = schedulers.sampler(name)
    assert isinstance(tape, DiffusersSampler)
    assert len(tape.layout) == draws
    assert max(slopes(tape, "a", 1e-4).values()) < tolerance


@pytest.mark.filterwarnings("ignore:Should have ta>=t0:UserWarning")  # torchsde, of its own rounding
def test_a_brownian_tree_is_put_back_and_an_earlier_runs_is_not_used():
    tape = schedulers.sampler("DPMSolverSDEScheduler")
    module = __import__(type(tape.pipe.scheduler).__module__, fromlist=["BrownianTreeNoiseSampler"])
    tree = module.BrownianTreeNoiseSampler
    tape.pipe("a", **schedulers.CALL, num_inference_steps=3)  # the pipeline's own run leaves a tree on its scheduler
    assert isinstance(tape.pipe.scheduler.noise_sampler, tree)
    noise = tape.init(1)
    assert torch.equal(tape(noise, "a"), tape(noise, "a"))
    assert module.BrownianTreeNoiseSampler is tree
    assert isinstance(tape.pipe.scheduler.noise_sampler, tree)
