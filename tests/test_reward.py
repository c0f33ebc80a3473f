"""Rewards: one number per row, or an error that says what is wrong."""

import functools
import math

import pytest
import torch

from noiseward.errors import ArgumentError, GradientError, RewardError
from noiseward.loop.objective import Objective
from noiseward.loop.panel import Panel
from noiseward.rewards.reward import FunctionReward, Reward, WeightedSum, check_rows, score
from noiseward.toys import GaussianModel

SAMPLE = torch.tensor([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.0]])


def total(sample):
    return sample.sum(1)


def spread(sample):
    return sample[:, 1] - sample[:, 0]


def test_a_function_of_the_sample_alone_gets_the_sample():
    assert FunctionReward(total)(SAMPLE, ["a", "b", "c"]).tolist() == [3, 8, -1]


def with_default(sample, prompt=None):
    return sample[:, 0] + torch.tensor([float(len(text)) for text in prompt])


def with_prompt(sample, prompt):
    return with_default(sample, prompt)


class Scorer:
    def __call__(self, sample, text):
        return with_default(sample, text)


@pytest.mark.parametrize("fn", [with_default, with_prompt, Scorer(), functools.partial(with_prompt)])
def test_a_function_of_sample_and_prompt_gets_both(fn):
    assert FunctionReward(fn, name="r")(SAMPLE, ["a", "bb", ""]).tolist() == [2, 5, -1]


def test_other_parameters_with_defaults_keep_them():
    def fn(sample, scale=2.0, *, shift=1.0):
        return scale * sample[:, 0] + shift

    assert FunctionReward(fn)(SAMPLE, ["a", "b", "c"]).tolist() == [3, 7, -1]


def test_a_reward_is_named_after_its_function_by_default():
    assert FunctionReward(total).name == "total"
    assert FunctionReward(total, name="sum").name == "sum"
    assert FunctionReward(Scorer()).name == "Scorer"


def test_a_reward_that_is_no_function_is_refused():
    with pytest.raises(ArgumentError, match="expected a function of .*, got 'brightness'"):
        FunctionReward("brightness")


def test_a_black_box_runs_without_a_graph_and_a_differentiable_reward_with_one():
    sample = SAMPLE.clone().requires_grad_(True)
    assert FunctionReward(total)(sample, None).requires_grad
    assert not FunctionReward(total, differentiable=False)(sample, None).requires_grad


ACCEPTED = {
    "tensor": lambda sample: torch.tensor([1.5, 2.0, 3.0]),
    "list of floats": lambda sample: [1.5, 2.0, 3.0],
    "tuple of floats": lambda sample: (1.5, 2.0, 3.0),
    "array": lambda sample: __import__("numpy").array([1.5, 2.0, 3.0]),
    "double": lambda sample: torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64),
}


@pytest.mark.parametrize("fn", ACCEPTED.values(), ids=ACCEPTED)
def test_one_number_per_row_is_accepted_as_anything_that_holds_numbers(fn):
    reward, terms = score(FunctionReward(fn, name="r"), SAMPLE, None)
    assert reward.tolist() == terms["r"].tolist() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize("fn", [lambda sample: [1, 2, 3], lambda sample: sample[:, 0] > 0], ids=["int", "bool"])
def test_whole_numbers_become_real_ones(fn):
    assert score(FunctionReward(fn), SAMPLE, None)[0].is_floating_point()


def raises(sample):
    raise KeyError("no such word")


REFUSED = {
    "one average": (
        lambda sample: sample.mean(),
        r"must return shape \(3,\) for 3 rows, never an average .*, got shape \(\)",
    ),
    "one average in a list": (lambda sample: [1.0], r"got shape \(1,\)"),
    "a number": (lambda sample: 1.0, r"got shape \(\)"),
    "a column": (lambda sample: sample[:, :1], r"got shape \(3, 1\)"),
    "a number per pixel": (lambda sample: sample, r"got shape \(3, 2\)"),
    "a string": (lambda sample: "good", "must return one number per row, 3 here, got str"),
    "strings": (lambda sample: ["good"] * 3, "must return one number per row, 3 here, got list"),
    "nothing": (lambda sample: None, "got NoneType"),
    "an exception": (raises, "raised KeyError: 'no such word'"),
    "two arguments too many": (lambda sample, a, b: sample, "raised TypeError"),
}


@pytest.mark.parametrize(("fn", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: WeightedSum({r: 1.0})], ids=["alone", "in a sum"])
def test_anything_else_is_an_error_naming_the_reward_in_one_line(wrap, fn, message):
    with pytest.raises(RewardError, match=f"reward 'judge' .*{message}") as caught:
        score(wrap(FunctionReward(fn, name="judge")), SAMPLE, None)
    assert "\n" not in str(caught.value)


def test_the_cause_of_an_exception_is_kept_for_the_traceback():
    with pytest.raises(RewardError) as caught:
        score(FunctionReward(raises), SAMPLE, None)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_this_library_inside_a_reward_is_passed_on_as_it_is():
    def fn(sample):
        raise GradientError("mine")

    with pytest.raises(GradientError, match="^mine$"):
        score(FunctionReward(fn), SAMPLE, None)


def test_a_weighted_sum_is_the_sum_and_reports_its_terms_unweighted():
    reward, terms = score(WeightedSum({FunctionReward(total): 2.0, FunctionReward(spread): -0.5}), SAMPLE, None)
    assert {name: term.tolist() for name, term in terms.items()} == {"total": [3, 8, -1], "spread": [1, 2, 1]}
    assert reward.tolist() == [5.5, 15.0, -2.5]


def test_a_weighted_sum_calls_each_reward_once_and_is_the_same_called_directly():
    calls = []
    counted = FunctionReward(lambda sample: calls.append(1) or total(sample), name="counted")
    both = WeightedSum({counted: 2.0, FunctionReward(spread): 1.0})
    reward, _ = score(both, SAMPLE, None)
    assert len(calls) == 1
    assert torch.equal(both(SAMPLE, None), reward)


def test_a_weighted_sum_has_the_weighted_gradient():
    sample = SAMPLE.clone().requires_grad_(True)
    reward, _ = score(WeightedSum({FunctionReward(total): 2.0, FunctionReward(spread): -0.5}), sample, None)
    (gradient,) = torch.autograd.grad(reward.sum(), sample)
    assert gradient.tolist() == [[2.5, 1.5]] * 3


def test_a_weighted_sum_has_a_gradient_only_if_all_of_it_has():
    black = FunctionReward(spread, differentiable=False)
    assert WeightedSum({FunctionReward(total): 1.0}).differentiable
    assert not WeightedSum({FunctionReward(total): 1.0, black: 0.1}).differentiable


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(weight):
    with pytest.raises(ArgumentError, match=f"the weight of reward 'total' must be finite, got {weight}"):
        WeightedSum({FunctionReward(spread): 1.0, FunctionReward(total): weight})


def test_an_empty_sum_and_two_rewards_of_one_name_are_refused():
    with pytest.raises(ArgumentError, match="needs at least one reward, got none"):
        WeightedSum({})
    with pytest.raises(ArgumentError, match="rewards need different names, got total, total"):
        WeightedSum({FunctionReward(total): 1.0, FunctionReward(spread, name="total"): 1.0})


def test_a_function_that_works_in_place_changes_nothing_else():
    sample = torch.tensor([[0.5, 1.0]], requires_grad=True)
    shifted = sample * 1.0

    def fn(x, prompt):
        prompt.append("more")
        return x.sub_(0.5).sum(1)

    prompt = ["a"]
    scores, _ = score(FunctionReward(fn), shifted, prompt)
    assert scores.tolist() == [0.5] and shifted.tolist() == [[0.5, 1.0]] and prompt == ["a"]
    assert torch.autograd.grad(scores.sum(), sample)[0].tolist() == [[1.0, 1.0]]


class Careless(Reward):
    name, differentiable = "careless", True

    def __call__(self, sample, prompt):
        return sample.sub_(0.5).sum(1)


def test_a_reward_that_changes_the_sample_in_place_is_an_error_that_names_it():
    both = WeightedSum({FunctionReward(total): 1.0, Careless(): 1.0})
    with pytest.raises(RewardError, match="'careless' to leave the sample as it is, got one changed in place; work on"):
        score(both, SAMPLE.clone(), None)


def make_normalized():
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    return net, FunctionReward(lambda x: net(x)[:, 0], name="net")


def test_a_reward_whose_rows_depend_on_each_other_is_refused():
    net, reward = make_normalized()
    with pytest.raises(RewardError, match=r"'net' to score each row by itself.*call \.eval\(\)"):
        check_rows(WeightedSum({FunctionReward(total): 1.0, reward: 0.1}), SAMPLE, None)
    net.eval()
    check_rows(reward, SAMPLE, None)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("coupled", [
    lambda x: x.sum(1) - x.mean(), lambda x: x.sum(1) / x.std(), lambda x: x.sum(1).softmax(0),
    lambda x: x[:, 0] * x.max(),
])  # fmt: skip
def test_couplings_are_found_whether_there_is_a_gradient_or_not(coupled, differentiable):
    with pytest.raises(RewardError, match="by itself"):
        check_rows(FunctionReward(coupled, differentiable, name="coupled"), SAMPLE, None)


def test_scores_that_vary_by_themselves_are_no_coupling():
    check_rows(FunctionReward(lambda x: total(x) + torch.randn(len(x)), False, name="noisy"), SAMPLE, None)


def test_a_black_box_of_one_number_of_rows_is_taken_at_its_word():
    check_rows(FunctionReward(lambda x: x.sum(1).reshape(3), False, name="fixed"), SAMPLE, None)


def test_an_objective_asks_once_and_a_panel_too():
    calls = []
    reward = FunctionReward(lambda x: calls.append(len(x)) or -x.square().sum(1), name="counted")
    objective = Objective(GaussianModel(steps=2).sampler(), reward)
    noise = objective.sampler.init(3)
    for _ in range(2):
        objective(noise)
        objective.rows([0, 1])(noise[:2])
    assert calls == [3, 3, 2, 3, 2]
    with pytest.raises(RewardError, match="by itself"):
        Objective(objective.sampler, FunctionReward(lambda x: x.sum(1) - x.mean(), name="centered"))(noise)
    with pytest.raises(RewardError, match="by itself"):
        Panel([FunctionReward(lambda x: x.sum(1) - x.mean(), name="centered")]).scores(objective.sampler(noise))
