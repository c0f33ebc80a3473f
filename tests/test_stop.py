"""Early stops: on runs whose rewards have a known course."""

from __future__ import annotations

import pytest
import torch

from noiseward import ArgumentError, FunctionReward, align
from noiseward.loop.budget import Status
from noiseward.loop.stop import STOPS, has_plateaued
from noiseward.rewards.shortfall import FAILED
from noiseward.runs import RunSpec, execute, resume
from noiseward.runs.store import RunFolder
from noiseward.toys import GaussianModel, Linear, Quadratic
from tests.tiny import stable_diffusion

MODEL = GaussianModel(steps=4, dim=1, dtype=torch.float64)


def judge(target):
    return FunctionReward(lambda x: -(x - target).square().flatten(1).sum(1), name="judge")


def run(reward, *, lr=0.05, steps=150, **more):
    method = f"dno:lr={lr},guard=none"
    return align(MODEL.sampler(), None, reward, method=method, steps=steps, progress=False, **more)


def test_a_row_ends_where_its_reward_stopped_rising():
    whole, early = run(Quadratic(1.0), watch=()), run(Quadratic(1.0), watch=(), stop_when="plateau")
    assert early.status == (Status.PLATEAU,) and 20 < len(early.history) < len(whole.history) / 1.5
    assert early.gain > 0.95 * whole.gain
    course = [record["reward"][0] for record in whole.history[: len(early.history)]]
    assert [record["reward"][0] for record in early.history] == course


def test_a_reward_that_rises_steadily_does_not_end():
    assert run(Linear(1.0), watch=(), stop_when="plateau", steps=60).status == (Status.STEPS,)


def test_a_row_ends_where_it_is_hacked_with_the_best_before():
    whole = run(Linear(1.0), watch=[judge(1.5)])
    (hacking,) = whole.hacking
    early = run(Linear(1.0), watch=[judge(1.5)], stop_when=["hacked", "plateau"])
    assert early.status == (Status.HACKED,) and len(early.history) < len(whole.history)
    assert early.index.tolist() == [hacking.before]
    assert torch.equal(early.sample, whole.best(by="pareto").sample)
    assert early.reward.item() == whole.history[hacking.before]["reward"][0]


def test_rows_end_alone():
    """A row of a batch keeps what it would have alone, and is still where it ended."""
    both = run(Linear(1.0), watch=[judge(1.5)], stop_when="hacked", batch=2, seed=3)
    for row in range(2):
        alone = run(Linear(1.0), watch=[judge(1.5)], stop_when="hacked", seed=3 + row)
        assert both.index[row] == alone.index[0] and torch.equal(both.noise[row], alone.noise[0])
        ended = len(alone.history) - 1
        rewards = [record["reward"][row] for record in both.history[: ended + 1]]
        assert rewards == [record["reward"][0] for record in alone.history]
        later = {record["reward"][row] for record in both.history[ended + 1 :]}
        assert len(later) <= 1  # frozen where it would have gone next


def test_a_row_that_stopped_for_another_reason_keeps_it():
    """One row reaches the target, and stands still from then on while its neighbor goes on."""
    target = {"target": -0.02, "stop_when": "plateau", "watch": (), "batch": 2, "steps": 90}
    both = run(Quadratic(1.0), lr=0.01, **target)
    alone = [run(Quadratic(1.0), lr=0.01, **{**target, "batch": 1, "seed": row}) for row in (0, 1)]
    assert both.status == tuple(one.status[0] for one in alone) and Status.REWARD in both.status
    assert both.index.tolist() == [one.index.item() for one in alone]


def test_a_requirement_that_is_met_late_is_no_gain_to_measure_by():
    rewards = [1.5 * FAILED] * 30 + [0.5 + 0.1 * k for k in range(40)]
    rising = [{"index": k, "reward": [reward], "found": [k]} for k, reward in enumerate(rewards)]
    assert not any(has_plateaued(rising[:steps], 0) for steps in range(31, 70))
    still = [*rising, *({"index": k, "reward": [0.0], "found": [69]} for k in range(70, 110))]
    assert has_plateaued(still, 0)


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tmp_path):
    model = str(tmp_path / "model")
    stable_diffusion().save_pretrained(model)
    spec = RunSpec(
        model=model, prompt="a", reward="brightness", method="best-of-n:samples=4", watch=(), batch=2, steps=60,
        num_inference_steps=2, height=16, width=16, stop_when="plateau",
    )  # fmt: skip
    whole = execute(spec, tmp_path / "whole", quiet=True)
    assert set(whole.status) == {Status.PLATEAU} and len(whole.history) < 60
    half = min(len(whole.history) - 2, 25)
    execute(spec.replace(steps=half), tmp_path / "cut", quiet=True)
    again = resume(tmp_path / "cut", steps="60", quiet=True)
    assert torch.equal(again.noise, whole.noise) and again.status == whole.status
    assert [one["reward"] for one in again.history] == [one["reward"] for one in whole.history]
    assert RunFolder(tmp_path / "cut").read("status.json")["rows"] == ["PLATEAU", "PLATEAU"]
    still = resume(tmp_path / "cut", steps="+5", quiet=True)
    assert len(still.history) == len(whole.history) and still.status == whole.status


def test_after_few_steps_first():
    solution = align(
        "stickers", "a duck", "brightness", method="dno:coarse=2,guard=none", num_inference_steps=4, steps=40,
        watch=(), stop_when="plateau", progress=False,
    )  # fmt: skip
    assert solution.status[0] in (Status.PLATEAU, Status.STEPS)


@pytest.mark.parametrize(
    ("stop", "watch", "message"),
    [
        ("bored", None, "stop_when must be one of 'plateau', 'hacked', got 'bored'"),
        ("hacked", (), "stop_when 'hacked' needs a held-out reward that can tell"),
        ("hacked", ["jpeg"], "stop_when 'hacked' needs a held-out reward that can tell"),
    ],
)
def test_stops_that_cannot_be_are_refused(stop, watch, message):
    with pytest.raises(ArgumentError, match=message):
        align("stickers", "a duck", "brightness", watch=watch, stop_when=stop, steps=1, progress=False)


def test_the_stops_that_an_option_takes_are_those_there_are():
    names = tuple(STOPS)
    assert RunSpec(prompt="a", reward="brightness", stop_when=names).stop_when == names
    with pytest.raises(ArgumentError, match=f"'{names[0]}'.*'{names[1]}'|'{names[1]}'.*'{names[0]}'"):
        RunSpec(prompt="a", reward="brightness", stop_when="bored")
