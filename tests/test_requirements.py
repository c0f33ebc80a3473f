"""Requirements next to a reward: their order, their gradient, and runs that end where all are met."""

from __future__ import annotations

import json
import math

import pytest
import torch

from noiseward import (
    ArgumentError,
    Budget,
    FunctionReward,
    GradientAscent,
    Objective,
    Plausible,
    RewardError,
    TrustRegion,
    WeightedSum,
    align,
    optimize,
)
from noiseward.images import plots as image_module
from noiseward.loop.budget import Status
from noiseward.optimizers.gradient import Backprop
from noiseward.optimizers.steady import Steady
from noiseward.rewards.parse import make_reward, parse_requirements, parse_rewards
from noiseward.rewards.requirements import Constrained, Requirement
from noiseward.rewards.reward import check_rows, find_leaves, score
from noiseward.rewards.shortfall import FAILED, parse_requirement
from noiseward.toys import GaussianModel

f64 = torch.float64


def make_images(rows=3):
    return torch.rand(rows, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=f64)


def coordinate(k, name, *, differentiable=True):
    return FunctionReward(lambda x: x[:, k], differentiable, name=name)


def test_what_meets_all_beats_what_does_not_and_then_the_reward_counts():
    first = coordinate(0, "first")
    whole = Constrained(
        first, [Requirement(coordinate(1, "second"), 2.0), Requirement(coordinate(2, "third"), 0.0, True)]
    )
    x = torch.tensor([[5.0, 1.0, 0.0], [1.0, 2.0, 0.0], [3.0, 4.0, -1.0], [9.0, 2.0, 0.5], [9.0, 1.0, 0.5]])
    total, terms = score(whole, x, None)
    assert total.tolist() == [-1.5e9, 1.0, 3.0, -1.5e9, -2e9]
    assert list(terms) == ["first", "second>=2", "third<=0"] and terms["second>=2"].tolist() == [1, 2, 4, 2, 1]
    assert whole.name == "first with second>=2 and third<=0"


def test_the_reward_that_is_bounded_keeps_its_name():
    reward = coordinate(0, "first")
    low, high = Requirement(reward, 1.0), Requirement(reward, 2.0, at_most=True)
    assert (low.name, high.name, reward.name) == ("first>=1", "first<=2", "first")
    assert low.reward is high.reward is reward
    total, terms = score(Constrained(reward, [low, high]), torch.tensor([[0.5], [1.5], [3.0]]), None)
    assert total.tolist() == [1.5 * FAILED, 1.5, 1.5 * FAILED] and list(terms) == ["first", "first>=1", "first<=2"]


def test_a_score_that_is_no_number_meets_nothing_and_a_reward_that_is_none_stays_none():
    whole = Constrained(coordinate(0, "first"), [Requirement(coordinate(1, "second"), 1.0)])
    total = whole(torch.tensor([[1.0, math.nan], [1.0, math.inf], [math.nan, 2.0], [1.0, -math.inf]], dtype=f64), None)
    assert total[:2].tolist() == [1001 * FAILED, 1.0] and total[2].isnan() and total[3] == 1001 * FAILED


def test_a_reward_too_low_to_tell_is_refused_with_the_remedy():
    low = FunctionReward(lambda x: x[:, 0] - 5e9, name="low")
    with pytest.raises(RewardError, match="'low' must be above -1e.09 next to requirements, .*; divide it"):
        Constrained(low, [Requirement(coordinate(1, "second"), 0.0)])(torch.ones(1, 2), None)


def test_the_gradient_is_that_of_the_reward_where_all_is_met_by_a_twentieth():
    whole, plain = parse_requirements(make_reward("contrast"), ["brightness>=0.1"]), make_reward("contrast")
    x = make_images().requires_grad_()
    assert torch.equal(whole(x, None), plain(x, None))
    assert torch.equal(*(torch.autograd.grad(each(x, None).sum(), x)[0] for each in (whole, plain)))


def test_a_failed_requirement_joins_with_twice_the_gradient_of_the_reward():
    x = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    reward = FunctionReward(lambda x: 3 * x[:, 0] + 4 * x[:, 1], name="up")
    for at_most in (False, True):
        slope = -0.01 if at_most else 0.01
        bound = FunctionReward(lambda x, slope=slope: slope * x[:, 2], name="low")
        whole = Constrained(reward, [Requirement(bound, -1.0 if at_most else 1.0, at_most)])
        (gradient,) = torch.autograd.grad(whole(x, None).sum(), x)
        torch.testing.assert_close(gradient, torch.tensor([[3.0, 4.0, 10.0]]))


@pytest.mark.parametrize(("second", "left"), [(1.0, -1.0), (1.025, 0.0), (1.05, 1.0), (2.0, 1.0)])
def test_next_to_a_bound_the_gradient_turns_back_what_leads_out(second, left):
    x = torch.tensor([[0.0, second], [0.0, second]], requires_grad=True)
    signs = torch.tensor([1.0, -1.0])  # in the second row the reward leads away from the bound
    reward = FunctionReward(lambda x: 3 * x[:, 0] - 4 * signs[: len(x)] * x[:, 1], name="out")
    whole = Constrained(reward, [Requirement(coordinate(1, "second"), 1.0)])
    (gradient,) = torch.autograd.grad(whole(x, None).sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[3.0, -4.0 * left], [3.0, 4.0]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_step_along_the_gradient_always_lowers_the_violation(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(20, generator=generator, dtype=f64) for _ in range(2))
    b = -a + 0.1 * b  # the reward pulls against the requirement
    whole = Constrained(
        FunctionReward(lambda x: x @ a, name="one"), [Requirement(FunctionReward(lambda x: x @ b, name="other"), 10.0)]
    )
    x = torch.randn(3, 20, generator=generator, dtype=f64).requires_grad_()
    before = whole(x, None)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert (whole((x + 1e-3 * gradient / gradient.norm()).detach(), None) > before).all() and (before < FAILED).all()


def test_rows_are_independent():
    whole = parse_requirements(parse_rewards(["contrast", "saturation:0.5"]), ["brightness>=0.5", "jpeg>=-0.9"])
    x = make_images(4)
    check_rows(whole, x, None, score(whole, x, None)[1])
    gradient = []
    for rows in ([0, 1, 2, 3], [2]):
        leaf = x[rows].clone().requires_grad_()
        gradient.append(torch.autograd.grad(whole(leaf, None).sum(), leaf)[0][-2 if len(rows) > 1 else 0])
    torch.testing.assert_close(*gradient)
    coupled = Constrained(
        make_reward("contrast"), [Requirement(FunctionReward(lambda x: x.mean() + x.mean((1, 2, 3)), name="c"), 9)]
    )
    with pytest.raises(RewardError, match="'c>=9' to score each row by itself"):
        check_rows(coupled, x, None, score(coupled, x, None)[1])


def problem(requirement, *, differentiable=True, plausible=None):
    """The nearest point to (2, 2) whose first coordinate is at most 0.5: (0.5, 2)."""
    target = torch.tensor([2.0, 2.0], dtype=f64)
    reward = FunctionReward(lambda x: -(x - target).square().sum(1), differentiable, name="near")
    whole = Constrained(reward, [Requirement(requirement, 0.5, at_most=True)])
    return Objective(GaussianModel(steps=4, dtype=f64).sampler(), whole, plausible=plausible)


@pytest.mark.parametrize("plausible", [None, Plausible(strict=0, image=0)])
def test_gradient_ascent_ends_near_the_constrained_optimum(plausible):
    objective = problem(coordinate(0, "first"), plausible=plausible)
    ascent = GradientAscent(Backprop(), lr=0.05)
    ascent = ascent if plausible is None else Steady(ascent)
    solution = optimize(objective, objective.sampler.init(3), optimizer=ascent, budget=Budget(steps=150))
    assert (solution.sample[:, 0] <= 0.5).all() and solution.shortfall == [None] * 3
    torch.testing.assert_close(solution.reward, torch.full((3,), -2.25, dtype=f64), rtol=0, atol=0.25)


@pytest.mark.parametrize("black", ["reward", "requirement", "both"])
def test_a_search_ends_among_what_meets_all(black):
    requirement = coordinate(0, "first", differentiable=black == "reward")
    objective = problem(requirement, differentiable=black == "requirement")
    solution = optimize(objective, objective.sampler.init(2), optimizer=TrustRegion(16), budget=Budget(steps=25))
    assert (solution.sample[:, 0] <= 0.5).all() and (solution.reward > -3).all()


def test_the_best_meets_all_even_where_others_score_higher_and_a_target_waits_for_it():
    objective = problem(coordinate(0, "first", differentiable=False))  # the gradient alone leads to (2, 2)
    how = {"optimizer": GradientAscent(Backprop(), lr=0.1)}
    solution = optimize(objective, objective.sampler.init(4), budget=Budget(steps=60, reward=-2.5), **how)
    for row, status in enumerate(solution.status):
        reached = (solution.sample[row, 0] <= 0.5).item() and solution.reward[row] >= -2.5
        assert reached == (status is Status.REWARD)
    assert solution.last.evaluation.sample[:, 0].max() > 1.5  # it went where nothing counts
    assert all(
        (text is None) == (reward > FAILED) for text, reward in zip(solution.shortfall, solution.reward, strict=True)
    )


def test_where_nothing_meets_all_the_least_violation_is_best():
    objective = problem(FunctionReward(lambda x: x[:, 0] + 100, name="far"))
    solution = optimize(objective, objective.sampler.init(2), optimizer=TrustRegion(8), budget=Budget(steps=10))
    assert (solution.reward < FAILED).all() and (solution.reward > solution.initial.reward).all()
    assert solution.gain.isnan().all()
    assert all(text.startswith("fails far<=0.5, got ") for text in solution.shortfall)


def test_align_takes_requirements():
    how = {"steps": 3, "num_inference_steps": 2, "progress": False, "watch": (), "method": "dno:guard=none"}
    solution = align("stickers", "a duck", "contrast", require=["brightness>=0.5", "jpeg>=-50"], **how)
    assert set(solution.history[0]["terms"]) == {"contrast", "brightness>=0.5", "jpeg>=-50"}
    assert solution.shortfall == [None]
    plain = align("stickers", "a duck", "contrast", **how)
    same = align("stickers", "a duck", "contrast", require="brightness>=0", **how)
    assert torch.equal(plain.noise, same.noise)  # what is always met changes nothing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clip", "require must be NAME>=NUMBER or NAME<=NUMBER, as in 'clip>=0.25', got 'clip'"),
        ("clip>0.25", "require must be"), ("clip>=much", "require must be"), ("clip>=nan", "require must be"),
        (">=1", "require must be"), ("brightnes>=1", "did you mean 'brightness'"),
        ("brightness:0.5>=1", "expected a requirement without a weight, got 'brightness:0.5>=1'"),
    ],
)  # fmt: skip
def test_bad_requirements_are_one_line(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        parse_requirements(make_reward("contrast"), [text])
    assert "\n" not in str(caught.value)


def test_the_same_requirement_twice_is_refused_and_two_bounds_are_not():
    with pytest.raises(ArgumentError, match="requirements need different names, got contrast, jpeg>=1, jpeg>=1"):
        parse_requirements(make_reward("contrast"), ["jpeg>=1", "jpeg>=1.0"])
    both = parse_requirements(make_reward("brightness"), ["brightness>=0.4", "brightness<=0.6"])
    assert [leaf.name for leaf in find_leaves(both)] == ["brightness", "brightness>=0.4", "brightness<=0.6"]
    assert parse_requirement("http://127.0.0.1:8000:timeout=5>=0.5") == ("http://127.0.0.1:8000:timeout=5", 0.5, False)
    assert Requirement(make_reward("jpeg"), 0.123456789).name == "jpeg>=0.123456789"


def test_a_black_box_reward_with_requirements_is_one():
    whole = parse_requirements(WeightedSum({make_reward("jpeg"): 1.0}), ["brightness>=0.5"])
    assert not whole.differentiable
    with pytest.raises(Exception, match="reward 'jpeg' is a black box"):
        Backprop().check(whole)


def test_plots_leave_out_what_reports_call_not_met():
    assert image_module.FAILED == FAILED


def read_log(folder):
    """The steps of a run."""
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_run_keeps_its_requirements_resumes_and_says_what_is_missing(run, tmp_path):
    asked = ["align", "a duck", "--reward", "contrast", "--require", "brightness>=2", "--require", "jpeg>=-50"]
    asked += ["--num-inference-steps", "2", "--watch", "none", "--method", "dno"]
    code, out, err = run(*asked, "--steps", "3", "--out", "whole")
    assert code == 0, err
    assert "not met" in out and "row 0: fails brightness>=2, got 0." in out and "no sample met all" in out
    assert run(*asked, "--steps", "1", "--out", "part")[0] == 0 and run("resume", "part", "--steps", "3")[0] == 0
    logs = [read_log(tmp_path / name) for name in ("whole", "part")]
    assert [line["reward"] for line in logs[0]] == [line["reward"] for line in logs[1]]
    assert json.loads((tmp_path / "whole" / "spec.json").read_text())["require"] == ["brightness>=2", "jpeg>=-50"]
    assert run("align", "a duck", "--reward", "contrast", "--require", "clip>0.2")[2].startswith(
        "noiseward: require must be"
    )
